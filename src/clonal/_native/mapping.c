/* The mappings of this process: one ioctl per mapping where the kernel has it, else the text. */
#define _GNU_SOURCE
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "sys.h"

bool mapping_walk_text_only;

/* include/uapi/linux/fs.h of Linux 6.11; the build machine's headers may be older. */
struct procmap_query_abi {
    uint64_t size, query_flags, query_addr;
    uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    uint32_t dev_major, dev_minor, vma_name_size, build_id_size;
    uint64_t vma_name_addr, build_id_addr;
};
#define QUERY_ABI _IOWR('f', 17, struct procmap_query_abi)
#define QUERY_COVERING_OR_NEXT 0x10u
enum { VMA_READABLE = 1, VMA_WRITABLE = 2, VMA_EXECUTABLE = 4, VMA_IS_SHARED = 8 };

static bool same_text(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* Asks the kernel for the first mapping that ends above walk->next. Returns 0 or a negative errno. */
static long query_next(struct mapping_walk *walk, struct mapping *mapping)
{
    char name[sizeof IMAGE_PATH + 1] = "";
    struct procmap_query_abi query = {
        .size = sizeof query,
        .query_flags = QUERY_COVERING_OR_NEXT,
        .query_addr = walk->next,
        .vma_name_size = sizeof name,
        .vma_name_addr = (uintptr_t)name,
    };
    long result = SYS(SYS_ioctl, walk->fd, QUERY_ABI, &query);
    if (result == -ENAMETOOLONG) { /* a longer name than the image's: not the image */
        query.vma_name_size = 0;
        query.vma_name_addr = 0;
        name[0] = 0;
        result = SYS(SYS_ioctl, walk->fd, QUERY_ABI, &query);
    }
    if (result < 0)
        return result;
    mapping->start = query.vma_start;
    mapping->end = query.vma_end;
    mapping->prot = (query.vma_flags & VMA_READABLE ? PROT_READ : 0) |
                    (query.vma_flags & VMA_WRITABLE ? PROT_WRITE : 0) |
                    (query.vma_flags & VMA_EXECUTABLE ? PROT_EXEC : 0);
    mapping->shared = (query.vma_flags & VMA_IS_SHARED) != 0;
    mapping->file = query.inode != 0;
    mapping->image = mapping->file && !mapping->shared && same_text(name, IMAGE_PATH);
    return 0;
}

/* The next character of the text, or -1 at its end. */
static int next_char(struct mapping_walk *walk)
{
    if (walk->at == walk->fill) {
        long count = SYS(SYS_read, walk->fd, walk->buffer, sizeof walk->buffer);
        if (count <= 0)
            return -1;
        walk->at = 0;
        walk->fill = (size_t)count;
    }
    return (unsigned char)walk->buffer[walk->at++];
}

/* Reads hexadecimal digits and the one character after them. Returns that character, or -1. */
static int read_hex(struct mapping_walk *walk, uint64_t *value)
{
    *value = 0;
    for (;;) {
        int c = next_char(walk);
        if (c >= '0' && c <= '9')
            *value = *value * 16 + (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *value = *value * 16 + (uint64_t)(c - 'a' + 10);
        else
            return c;
    }
}

/* Reads the rest of the line, blanks before the name left out; true if it is IMAGE_PATH. */
static bool rest_is_image(struct mapping_walk *walk, int c)
{
    const char *want = IMAGE_PATH;
    bool same = true;

    while (c == ' ')
        c = next_char(walk);
    for (; c >= 0 && c != '\n'; c = next_char(walk)) {
        same = same && *want == c;
        if (*want)
            want++;
    }
    return same && !*want;
}

/* Parses one line of /proc/self/maps; false at its end. */
static bool parse_line(struct mapping_walk *walk, struct mapping *mapping)
{
    uint64_t start, end, number;
    int perms[4], c;

    if (read_hex(walk, &start) != '-' || read_hex(walk, &end) != ' ')
        return false;
    for (int i = 0; i < 4; i++)
        perms[i] = next_char(walk);
    next_char(walk);
    read_hex(walk, &number); /* offset */
    read_hex(walk, &number); /* device, major */
    read_hex(walk, &number); /* device, minor */
    c = read_hex(walk, &number);
    mapping->start = start;
    mapping->end = end;
    mapping->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
                    (perms[2] == 'x' ? PROT_EXEC : 0);
    mapping->shared = perms[3] == 's';
    mapping->file = number != 0;
    mapping->image = rest_is_image(walk, c) && mapping->file && !mapping->shared;
    return true;
}

int mapping_walk_open(struct mapping_walk *walk, uintptr_t from)
{
    struct mapping ignored;
    long fd = SYS(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return (int)fd;
    walk->fd = (int)fd;
    walk->next = from;
    walk->at = walk->fill = 0;
    walk->query = false;
    if (!mapping_walk_text_only) {
        long result = query_next(walk, &ignored);
        walk->query = result == 0 || result == -ENOENT;
    }
    return 0;
}

bool mapping_walk_next(struct mapping_walk *walk, struct mapping *mapping)
{
    do {
        if (walk->query ? query_next(walk, mapping) < 0 : !parse_line(walk, mapping))
            return false;
    } while (mapping->end <= walk->next);
    walk->next = mapping->end;
    return true;
}

void mapping_walk_close(struct mapping_walk *walk)
{
    SYS(SYS_close, walk->fd);
}
