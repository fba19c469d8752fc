#include "text.h"
#include "sys.h"

/* Moves what is unread to the front and reads more behind it. False at end of file. */
static bool refill(struct line_reader *reader)
{
    size_t rest = reader->length - reader->position;
    for (size_t i = 0; i < rest; i++)
        reader->buffer[i] = reader->buffer[reader->position + i];
    reader->position = 0;
    reader->length = rest;
    if (rest + 1 >= reader->capacity)
        return false;
    long got = SYS(SYS_read, reader->fd, reader->buffer + rest, reader->capacity - 1 - rest);
    if (got < 0)
        reader->error = got;
    if (got <= 0)
        return false;
    reader->length += got;
    return true;
}

char *read_line(struct line_reader *reader)
{
    size_t scanned = 0;
    for (;;) {
        for (size_t i = reader->position + scanned; i < reader->length; i++) {
            if (reader->buffer[i] != '\n')
                continue;
            char *line = reader->buffer + reader->position;
            reader->buffer[i] = '\0';
            reader->position = i + 1;
            return line;
        }
        scanned = reader->length - reader->position;
        if (!refill(reader))
            break;
    }
    if (reader->error || reader->position == reader->length)
        return NULL;
    char *line = reader->buffer + reader->position;
    reader->buffer[reader->length] = '\0';
    reader->position = reader->length;
    return line;
}

uint64_t parse_number(const char **text, unsigned base)
{
    uint64_t value = 0;
    for (;; (*text)++) {
        char c = **text;
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if (c >= 'a' && c <= 'f')
            digit = c - 'a' + 10;
        else
            return value;
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

bool starts_with(const char *text, const char *prefix)
{
    for (; *prefix; text++, prefix++)
        if (*text != *prefix)
            return false;
    return true;
}
