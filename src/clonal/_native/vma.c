#include "vma.h"
#include "sys.h"
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

static const char image_path[] = "/memfd:" IMAGE_NAME;

static enum vma_kind kind_of(const char *path, uint64_t inode)
{
    if (starts_with(path, image_path))
        return VMA_IMAGE;
    if (starts_with(path, "[stack"))
        return VMA_STACK;
    if (starts_with(path, "[v")) /* vdso, vvar, vvar_vclock, vsyscall */
        return VMA_KERNEL;
    return inode ? VMA_FILE : VMA_ANON;
}

/* "start-end perms offset major:minor inode path" */
static void parse_header(const char *line, struct vma *vma)
{
    *vma = (struct vma){0};
    vma->start = parse_number(&line, 16);
    line++;
    vma->end = parse_number(&line, 16);
    line++;
    vma->prot = (line[0] == 'r' ? PROT_READ : 0) | (line[1] == 'w' ? PROT_WRITE : 0) |
                (line[2] == 'x' ? PROT_EXEC : 0);
    bool shared = line[3] == 's';
    line += 5;
    parse_number(&line, 16); /* offset */
    line++;
    parse_number(&line, 16);
    line++;
    parse_number(&line, 16);
    line++;
    vma->inode = parse_number(&line, 10);
    while (*line == ' ')
        line++;
    vma->kind = kind_of(line, vma->inode);
    if (vma->kind == VMA_KERNEL)
        vma->keep = KEEP_KERNEL;
    else if (shared)
        vma->keep = KEEP_SHARED;
    else if (vma->kind == VMA_STACK)
        vma->keep = KEEP_STACK;
    else if (vma->prot & PROT_EXEC)
        vma->keep = KEEP_EXECUTABLE;
    else if (!(vma->prot & PROT_READ))
        vma->keep = KEEP_UNREADABLE;
}

static const struct {
    char flag[2];
    enum keep_reason keep;
} keep_flags[] = {
    {"lo", KEEP_LOCKED},      {"lf", KEEP_LOCKED},       {"dc", KEEP_DONTFORK},  {"wf", KEEP_WIPEONFORK},
    {"sl", KEEP_SEALED},      {"ss", KEEP_SHADOW_STACK}, {"dp", KEEP_DROPPABLE}, {"pf", KEEP_DEVICE},
    {"io", KEEP_DEVICE},      {"mm", KEEP_DEVICE},       {"ht", KEEP_HUGETLB},   {"um", KEEP_USERFAULTFD},
    {"uw", KEEP_USERFAULTFD}, {"ui", KEEP_USERFAULTFD},  {"gd", KEEP_STACK},
};

static void parse_flags(const char *flags, struct vma *vma)
{
    for (; flags[0] && flags[1]; flags++) {
        if (*flags == ' ')
            continue;
        if (vma->keep == KEEP_NONE)
            for (unsigned i = 0; i < sizeof keep_flags / sizeof keep_flags[0]; i++)
                if (flags[0] == keep_flags[i].flag[0] && flags[1] == keep_flags[i].flag[1])
                    vma->keep = keep_flags[i].keep;
        vma->dont_dump |= flags[0] == 'd' && flags[1] == 'd';
        vma->no_huge |= flags[0] == 'n' && flags[1] == 'h';
        vma->mergeable |= flags[0] == 'm' && flags[1] == 'g';
        vma->random |= flags[0] == 'r' && flags[1] == 'r';
        flags++;
    }
}

/* The number of a "Name:      123 kB" line, in bytes. */
static uint64_t kilobytes(const char *text)
{
    while (*text == ' ')
        text++;
    return parse_number(&text, 10) << 10;
}

static void parse_field(const char *line, struct vma *vma)
{
    if (starts_with(line, "Anonymous:"))
        vma->anonymous += kilobytes(line + 10);
    else if (starts_with(line, "Swap:"))
        vma->anonymous += kilobytes(line + 5);
    else if (starts_with(line, "FilePmdMapped:"))
        vma->huge = kilobytes(line + 14);
    else if (starts_with(line, "ShmemPmdMapped:"))
        vma->huge += kilobytes(line + 15);
    else if (starts_with(line, "ProtectionKey:"))
        vma->pkey = kilobytes(line + 14) >> 10;
    else if (starts_with(line, "VmFlags:"))
        parse_flags(line + 8, vma);
}

long read_vmas(struct vma *vmas, long capacity, char *buffer, unsigned long buffer_size)
{
    long fd = SYS(SYS_openat, AT_FDCWD, "/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    struct line_reader reader = {.fd = (int)fd, .buffer = buffer, .capacity = buffer_size};
    long count = 0;
    for (char *line; (line = read_line(&reader));) {
        bool header = (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
        if (header && count == capacity) {
            count = -ENOSPC;
            break;
        }
        if (header)
            parse_header(line, &vmas[count++]);
        else if (count > 0)
            parse_field(line, &vmas[count - 1]);
    }
    SYS(SYS_close, fd);
    if (count >= 0 && reader.error) /* what a half-read record forbids is not known */
        count = reader.error;
    return count;
}
