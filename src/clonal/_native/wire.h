/* Messages with descriptors, for C. */
#ifndef CLONAL_WIRE_H
#define CLONAL_WIRE_H

#include "native.h"

/* Sends the parts as one message with the descriptors in the tuple `fds` (may be NULL). 0, or -1 with a
 * Python error. */
int wire_write(int fd, const Py_buffer *parts, int count, PyObject *fds);

/* The next message as (bytes, fds), blocking; the end of the stream is (b"", ()). NULL with a Python error.
 */
PyObject *wire_read(int fd);

#endif
