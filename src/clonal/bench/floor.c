/* The floor: what the kernel charges a minimal C program, and a minimal child for those who exec.
 *
 *   floor serve           reads "fork N", "vfork N", "roundtrip N" lines; answers one JSON array of
 *                         nanoseconds per line ("fork": call, then call to reaped, in turn)
 *   floor child PAGE      notes its first instruction and its end on the shared page, answers "a" on
 *                         standard output
 *   floor write BYTES     writes one byte in each page of fresh memory
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SLOT_FIRST = 2, SLOT_ANSWER = 3, SLOT_EXIT = 6 };

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Forks (or vforks) a child that ends at once; puts the time of the call and the time until it was
 * reaped. */
static void time_fork(int64_t out[2], int by_vfork)
{
    int64_t start = now();
    pid_t child = by_vfork ? vfork() : fork();
    if (child == 0)
        _exit(0);
    out[0] = now() - start;
    waitpid(child, NULL, 0);
    out[1] = now() - start;
}

/* Forks a child, sends it a byte, waits for the answer: the least that a call in a fresh process can
 * cost. The second time is until it was reaped. */
static void time_roundtrip(int64_t out[2])
{
    int ask[2], answer[2];
    char byte = 'a';
    int64_t start = now();
    if (pipe(ask) < 0 || pipe(answer) < 0)
        exit(1);
    pid_t child = fork();
    if (child == 0)
        _exit(read(ask[0], &byte, 1) != 1 || write(answer[1], &byte, 1) != 1);
    if (write(ask[1], &byte, 1) != 1 || read(answer[0], &byte, 1) != 1)
        exit(1);
    out[0] = now() - start;
    close(ask[0]), close(ask[1]), close(answer[0]), close(answer[1]);
    waitpid(child, NULL, 0);
    out[1] = now() - start;
}

/* Answers command lines until standard input ends. */
static int serve(void)
{
    char line[64], what[16];
    int count;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15s %d", what, &count) != 2)
            return 2;
        printf("[");
        for (int i = 0; i < count; i++) {
            int64_t times[2];
            if (strcmp(what, "roundtrip") == 0)
                time_roundtrip(times);
            else
                time_fork(times, strcmp(what, "vfork") == 0);
            printf("%s%lld,%lld", i ? "," : "", (long long)times[0], (long long)times[1]);
        }
        printf("]\n");
        fflush(stdout);
    }
    return 0;
}

/* The child of those who exec; never returns. */
static void child(const char *path)
{
    int64_t first = now();
    int fd = open(path, O_RDWR);
    int64_t *slots = mmap(NULL, 16 * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (slots == MAP_FAILED)
        _exit(1);
    slots[SLOT_FIRST] = first;
    slots[SLOT_ANSWER] = now();
    if (write(STDOUT_FILENO, "a", 1) != 1)
        _exit(1);
    slots[SLOT_EXIT] = now();
    _exit(0);
}

/* Writes to every page of `bytes` of new memory. */
static int write_pages(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    volatile char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    for (size_t at = 0; at < bytes; at += page)
        memory[at] = 1;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "child") == 0)
        child(argv[2]);
    if (argc == 3 && strcmp(argv[1], "write") == 0)
        return write_pages(strtoull(argv[2], NULL, 10));
    return serve();
}
