/* Messages with descriptors over SOCK_SEQPACKET: what `socket` offers, without importing it into
 * every template, and with one call per message; and the board's counters. */
#define _GNU_SOURCE
#include "native.h"
#include "serve.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_FDS = 8, MOST_BYTES = 72 * 1024 };

union ancillary {
    char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
    struct cmsghdr align;
};

/* Puts the descriptors of a tuple into `message`. 0, or -1 with a Python error. */
static int attach_fds(struct msghdr *message, union ancillary *control, PyObject *fds)
{
    Py_ssize_t count = fds == NULL ? 0 : PyTuple_GET_SIZE(fds);
    if (count == 0)
        return 0;
    if (count > MOST_FDS) {
        PyErr_SetString(PyExc_ValueError, "too many descriptors in one message");
        return -1;
    }
    message->msg_control = control->room;
    message->msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    for (Py_ssize_t i = 0; i < count; i++) {
        int fd = (int)PyLong_AsLong(PyTuple_GET_ITEM(fds, i));
        if (fd < 0)
            return -1;
        memcpy(CMSG_DATA(head) + (size_t)i * sizeof(int), &fd, sizeof fd);
    }
    return 0;
}

/* sendmsg until it is through, without the GIL; 0, or -1 with a Python error. */
int wire_write(int fd, const Py_buffer *parts, int count, PyObject *fds)
{
    struct iovec vector[2];
    union ancillary control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)count};
    for (int i = 0; i < count; i++)
        vector[i] = (struct iovec){parts[i].buf, (size_t)parts[i].len};
    if (attach_fds(&message, &control, fds) < 0)
        return -1;
    for (;;) {
        ssize_t sent;
        PyThreadState *released = PyEval_SaveThread();
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        PyEval_RestoreThread(released);
        if (sent >= 0)
            return 0;
        if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

static PyObject *wire_send(PyObject *self, PyObject *args)
{
    int fd;
    Py_buffer parts[2];
    PyObject *fds;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*y*O!", &fd, &parts[0], &parts[1], &PyTuple_Type, &fds))
        return NULL;
    int failed = wire_write(fd, parts, 2, fds);
    PyBuffer_Release(&parts[0]);
    PyBuffer_Release(&parts[1]);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* A socketpair whose one end has the request queued and whose other end went to the template. */
static int place_order(int control, const Py_buffer *parts, PyObject *fds, const struct order *order)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    PyObject *passed = NULL;
    Py_buffer body = {.buf = (void *)order, .len = sizeof *order};
    if (wire_write(pair[0], parts, 2, fds) < 0 || (passed = Py_BuildValue("(i)", pair[1])) == NULL ||
        wire_write(control, &body, 1, passed) < 0) {
        close(pair[0]);
        pair[0] = -1;
    }
    Py_XDECREF(passed);
    close(pair[1]);
    return pair[0];
}

static PyObject *wire_order(PyObject *self, PyObject *args)
{
    int control;
    Py_buffer parts[2];
    PyObject *fds;
    unsigned long long deadline;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKy*y*O!", &control, &deadline, &parts[0], &parts[1], &PyTuple_Type, &fds))
        return NULL;
    struct order order = {.deadline_ns = deadline};
    int fd = place_order(control, parts, fds, &order);
    PyBuffer_Release(&parts[0]);
    PyBuffer_Release(&parts[1]);
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

/* The descriptors that came with a message, as a tuple; they are closed on failure. */
static PyObject *detach_fds(struct msghdr *message)
{
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    if (head == NULL || head->cmsg_type != SCM_RIGHTS)
        return PyTuple_New(0);
    Py_ssize_t count = (Py_ssize_t)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    PyObject *fds = PyTuple_New(count);
    for (Py_ssize_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(head) + (size_t)i * sizeof(int), sizeof fd);
        PyObject *number = fds == NULL ? NULL : PyLong_FromLong(fd);
        if (number == NULL) {
            Py_CLEAR(fds);
            close(fd);
        } else {
            PyTuple_SET_ITEM(fds, i, number);
        }
    }
    return fds;
}

/* One message as (bytes, fds). The end of the stream, however it came, is (b"", ()). */
static PyObject *receive(int fd, int flags)
{
    char buffer[MOST_BYTES];
    union ancillary control;
    struct iovec part = {buffer, sizeof buffer};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    ssize_t got;
    /* A peer that closes before it has read all that it was sent leaves ECONNRESET, told once and
     * ahead of the messages it has sent itself (net/unix/af_unix.c unix_release_sock). */
    PyThreadState *released = PyEval_SaveThread();
    do
        got = recvmsg(fd, &message, flags | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == ECONNRESET);
    PyEval_RestoreThread(released);
    if (got < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *fds = detach_fds(&message);
    if (fds == NULL)
        return NULL;
    return Py_BuildValue("(y#N)", buffer, (Py_ssize_t)got, fds);
}

static int64_t monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Polls `fd` and `pidfd` (may be -1) up to `timeout` ms, signals handled. The event bits of fd and,
 * shifted by 16, of pidfd; 0 when the time is up; -1 with a Python error. */
static int wait_either(int fd, int pidfd, int timeout)
{
    struct pollfd polled[2] = {{.fd = fd, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    int64_t end = timeout < 0 ? 0 : monotonic_ms() + timeout;
    for (;;) {
        int ready;
        PyThreadState *released = PyEval_SaveThread();
        ready = poll(polled, 2, timeout);
        PyEval_RestoreThread(released);
        if (ready >= 0)
            return ready == 0 ? 0 : polled[0].revents | polled[1].revents << 16;
        if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0)
            return -1;
        if (timeout >= 0)
            timeout = end > monotonic_ms() ? (int)(end - monotonic_ms()) : 0;
    }
}

static PyObject *wire_next(PyObject *self, PyObject *args)
{
    int fd, pidfd, timeout;
    (void)self;
    if (!PyArg_ParseTuple(args, "iii", &fd, &pidfd, &timeout))
        return NULL;
    int events = wait_either(fd, pidfd, timeout);
    if (events < 0)
        return NULL;
    if (events == 0)
        Py_RETURN_NONE;
    if ((events & 0xffff) == 0) { /* only the process ended: what it had sent has been looked for */
        PyObject *last = receive(fd, MSG_DONTWAIT);
        if (last != NULL || !PyErr_ExceptionMatches(PyExc_BlockingIOError))
            return last;
        PyErr_Clear();
        return Py_BuildValue("(y())", "");
    }
    return receive(fd, MSG_DONTWAIT);
}

PyObject *wire_read(int fd)
{
    for (;;) {
        PyObject *message = receive(fd, 0);
        if (message != NULL || !PyErr_ExceptionMatches(PyExc_InterruptedError))
            return message;
        PyErr_Clear();
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

static PyObject *wire_receive(PyObject *self, PyObject *args)
{
    int fd;
    (void)self;
    return PyArg_ParseTuple(args, "i", &fd) ? wire_read(fd) : NULL;
}

static PyObject *wire_pair(PyObject *self, PyObject *args)
{
    int pair[2];
    (void)self;
    (void)args;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("(ii)", pair[0], pair[1]);
}

struct board *board_map(int fd)
{
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (board == MAP_FAILED)
        return (struct board *)PyErr_SetFromErrno(PyExc_OSError);
    return board;
}

static PyObject *board_new(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    int fd = memfd_create("clonal-board", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, sizeof(struct board)) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static PyObject *board_read(PyObject *self, PyObject *args)
{
    static const char *const names[BOARD_COUNTERS] = {"forks",  "fork_ns", "faults",        "live",
                                                      "exited", "handed",  "standby_ready", "learnt_clones"};
    uint64_t counters[BOARD_COUNTERS];
    int fd;
    (void)self;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    if (pread(fd, counters, sizeof counters, 0) != (ssize_t)sizeof counters)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *result = PyDict_New();
    for (int i = 0; result != NULL && i < BOARD_COUNTERS; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(counters[i]);
        if (value == NULL || PyDict_SetItemString(result, names[i], value) < 0)
            Py_CLEAR(result);
        Py_XDECREF(value);
    }
    return result;
}

static PyObject *board_deliver(PyObject *self, PyObject *args)
{
    unsigned long long address;
    int slot;
    (void)self;
    if (!PyArg_ParseTuple(args, "Ki", &address, &slot))
        return NULL;
    if (address) /* none at a rehearsal */
        __atomic_store_n(&((struct board *)(uintptr_t)address)->state[slot], CLONE_DELIVERED,
                         __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

PyMethodDef clonal_wire_methods[] = {
    {"wire_pair", wire_pair, METH_NOARGS, "wire_pair(): a SOCK_SEQPACKET pair."},
    {"wire_send", wire_send, METH_VARARGS, "wire_send(fd, head, body, fds): one message."},
    {"wire_receive", wire_receive, METH_VARARGS, "wire_receive(fd): (bytes, fds), blocking."},
    {"wire_next", wire_next, METH_VARARGS,
     "wire_next(fd, pidfd, timeout_ms): (bytes, fds), None when the time is up, (b'', ()) at the end of "
     "either."},
    {"wire_order", wire_order, METH_VARARGS,
     "wire_order(control, deadline_ns, head, body, fds): the client's socket to a new clone."},
    {"board_new", board_new, METH_NOARGS, "board_new(): a memfd for counters shared with a template."},
    {"board_read", board_read, METH_VARARGS, "board_read(fd): the counters."},
    {"board_deliver", board_deliver, METH_VARARGS, "board_deliver(address, slot): the result is on its way."},
    {NULL},
};
