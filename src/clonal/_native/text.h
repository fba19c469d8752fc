/* Reading text and numbers from /proc without libc, so that it works while memory is being switched. */
#ifndef CLONAL_TEXT_H
#define CLONAL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Lines of an open file, read through a caller's buffer. */
struct line_reader {
    int fd;
    char *buffer;
    size_t capacity, length, position;
    long error; /* negative errno of a read that failed; the end is not the file's then */
};

/* The next line, NUL-terminated in place of its newline, or NULL at the end. A longer line than the
 * buffer is cut. NULL after a read that failed, too: see `error`. */
char *read_line(struct line_reader *reader);

/* Parses digits of `base` (10 or 16) at *text, moves *text behind them. */
uint64_t parse_number(const char **text, unsigned base);

/* True if `text` begins with `prefix`. */
bool starts_with(const char *text, const char *prefix);

#endif
