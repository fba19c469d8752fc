/* A library that calls what the guards redirect, for tests: its slots are patched like any other's. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* All return the result, or the negative errno that libc's convention reported. */
static long result(long value)
{
    return value == -1 ? -errno : value;
}

long call_madvise(void *start, size_t length, int advice)
{
    return result(madvise(start, length, advice));
}

long call_mremap(void *old, size_t old_length, size_t new_length, int flags, void *new)
{
    return result((long)mremap(old, old_length, new_length, flags, new));
}

long call_process_madvise(int pidfd, void *start, size_t length, int advice)
{
    struct iovec range = {start, length};
    return result(syscall(440, pidfd, &range, 1L, advice, 0L));
}

long call_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    return result(syscall(number, a, b, c, d, e, f));
}
