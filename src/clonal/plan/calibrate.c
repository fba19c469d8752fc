/* One scene of the calibration: memory of one kind, a fork, what the child does to it, the child's end.
 *
 *   calibrate KIND VMAS SPAN STEP ACTION EVERY CHILDREN ROUNDS
 *
 * VMAS mappings of SPAN pages each, with a hole between them, of which every STEP-th page is present; then,
 * ROUNDS times, CHILDREN children that apply ACTION to every EVERY-th of those pages at the same moment.
 * Prints a JSON array of rounds, [fork, action, end] in nanoseconds: the first call of fork, the mean of the
 * children's actions, and from the start of the last child's exit until it was reaped.
 *
 * KIND: none, untouched, anon, shared, thp, memfd, memfd-thp. ACTION: none, read, write, populate, zero,
 * zeroread, zerothp, reuse (by the parent, after the child's end), copyuser, zerouser, vfork, exec, wake (one
 * process wakes another over a pipe). Exit status 3: this kernel gives no huge pages.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { PAGE = 4096, HUGE = 2 << 20, MOST_CHILDREN = 64, NO_HUGE_PAGES = 3 };

/* What parent and children tell each other; shared. */
struct board {
    atomic_int ready, go;
    int64_t action[MOST_CHILDREN];
    int64_t leaving;
};

struct scene {
    const char *kind, *action, *program;
    size_t vmas, span, step, every;
    int children;
    char *base;
};

static struct board *board;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* New memory of `bytes`, of small pages; ends the program if there is none. */
static char *fresh(size_t bytes)
{
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    return memory;
}

/* Free addresses for the whole scene, the first a multiple of 2 MiB. */
static char *room(const struct scene *s)
{
    size_t bytes = s->vmas * (s->span + 1) * PAGE + HUGE;
    char *found = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED)
        die("mmap");
    munmap(found, bytes);
    return (char *)(((uintptr_t)found + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
}

static char *mapping(const struct scene *s, size_t number)
{
    return s->base + number * (s->span + 1) * PAGE;
}

/* A memory file of `bytes`, filled; of huge pages if asked for. */
static int memory_file(size_t bytes, int huge)
{
    int fd = memfd_create("calibrate", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
        die("memfd_create");
    char *free = mmap(NULL, bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *at = (char *)(((uintptr_t)free + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    char *all = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (free == MAP_FAILED || all == MAP_FAILED)
        die("mmap");
    for (size_t i = 0; huge && i < bytes; i += HUGE)
        all[i] = 1;
    if (huge && (madvise(all, bytes, MADV_HUGEPAGE) < 0 || madvise(all, bytes, MADV_COLLAPSE) < 0))
        exit(NO_HUGE_PAGES);
    memset(all, 1, bytes);
    munmap(free, bytes + HUGE);
    return fd;
}

/* Maps one part of the scene and makes its pages present. */
static void build_mapping(const struct scene *s, size_t number)
{
    size_t bytes = s->span * PAGE;
    int file = strncmp(s->kind, "memfd", 5) == 0, thp = strstr(s->kind, "thp") != NULL;
    int fd = file ? memory_file(bytes, thp) : -1;
    int flags =
        (is(s->kind, "shared") ? MAP_SHARED : MAP_PRIVATE) | MAP_FIXED_NOREPLACE | (file ? 0 : MAP_ANONYMOUS);
    char *memory = mmap(mapping(s, number), bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    if (file)
        close(fd);
    if (madvise(memory, bytes, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 && thp)
        exit(NO_HUGE_PAGES);
    for (size_t page = 0; !file && !is(s->kind, "untouched") && page < s->span; page += s->step)
        memory[page * PAGE] = 1;
    if (thp && !file && madvise(memory, bytes, MADV_COLLAPSE) < 0)
        exit(NO_HUGE_PAGES);
}

/* Reads or writes a byte of each page that the action is for. */
static void touch(const struct scene *s, int write)
{
    for (size_t number = 0; number < s->vmas; number++) {
        volatile char *memory = mapping(s, number);
        for (size_t page = 0; page < s->span; page += s->step * s->every) {
            if (write)
                memory[page * PAGE] = 2;
            else
                (void)memory[page * PAGE];
        }
    }
}

/* New memory as large as the scene, touched while the clock runs: written, read, or written in huge pages. */
static int64_t time_fresh(const struct scene *s)
{
    struct scene new = *s;
    size_t bytes = s->span * PAGE;
    new.vmas = 1;
    new.base = fresh(bytes + HUGE);
    new.base = (char *)(((uintptr_t)new.base + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    if (is(s->action, "zerothp") && madvise(new.base, bytes, MADV_HUGEPAGE) < 0)
        exit(NO_HUGE_PAGES);
    int64_t start = now();
    touch(&new, !is(s->action, "zeroread"));
    return now() - start;
}

/* Memory copied or cleared in user space, without a fault. */
static int64_t time_user(const struct scene *s)
{
    size_t bytes = s->span * PAGE;
    char *other = fresh(bytes);
    memset(other, 1, bytes);
    int64_t start = now();
    if (is(s->action, "copyuser"))
        memcpy(other, s->base, bytes);
    else
        memset(other, 0, bytes);
    int64_t took = now() - start;
    board->leaving += other[bytes / 2]; /* so that it is not left out */
    return took;
}

/* How long it takes one process to wake another: half of a round trip, the mean of many. */
static int64_t time_wake(void)
{
    enum { TRIPS = 400 };
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) < 0 || pipe(back) < 0)
        die("pipe");
    pid_t echo = fork();
    if (echo < 0)
        die("fork");
    if (echo == 0) {
        close(there[1]); /* so that it reads the end when the other is gone */
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            ;
        _exit(0);
    }
    close(back[1]);
    int64_t start = now();
    for (int trip = 0; trip < TRIPS; trip++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            die("pipe");
    int64_t took = now() - start;
    close(there[0]), close(there[1]), close(back[0]);
    waitpid(echo, NULL, 0);
    return took / (2 * TRIPS);
}

static int64_t act(const struct scene *s)
{
    if (is(s->action, "wake"))
        return time_wake();
    if (strncmp(s->action, "zero", 4) == 0 && !is(s->action, "zerouser"))
        return time_fresh(s);
    if (is(s->action, "copyuser") || is(s->action, "zerouser"))
        return time_user(s);
    int64_t start = now();
    if (is(s->action, "populate"))
        madvise(s->base, s->span * PAGE, MADV_POPULATE_WRITE);
    else if (is(s->action, "read") || is(s->action, "write"))
        touch(s, is(s->action, "write"));
    return now() - start;
}

/* The child: waits until all are there, acts, notes when it leaves; never returns. */
static void child(const struct scene *s, int number)
{
    atomic_fetch_add(&board->ready, 1);
    while (s->children > 1 && !atomic_load(&board->go))
        ;
    board->action[number] = act(s);
    board->leaving = now();
    if (is(s->action, "exec"))
        execl(s->program, s->program, (char *)NULL);
    _exit(0);
}

/* A child of either kind; -1 if there could be none. */
static pid_t born(const struct scene *s, int number)
{
    if (is(s->action, "vfork")) {
        pid_t made = vfork();
        if (made == 0)
            _exit(0);
        return made;
    }
    pid_t made = fork();
    if (made == 0)
        child(s, number);
    return made;
}

/* One round: its three times go to `out`. */
static void play(const struct scene *s, int64_t out[3])
{
    memset(board, 0, sizeof *board);
    for (int number = 0; number < s->children; number++) {
        int64_t start = now();
        pid_t made = born(s, number);
        if (made < 0)
            die("fork");
        if (number == 0)
            out[0] = now() - start;
    }
    while (s->children > 1 && atomic_load(&board->ready) < s->children)
        usleep(100);
    atomic_store(&board->go, 1);
    while (wait(NULL) > 0)
        ;
    out[2] = now() - board->leaving;
    for (int number = 0; number < s->children; number++)
        out[1] += board->action[number] / s->children;
    if (is(s->action, "reuse")) {
        int64_t start = now();
        touch(s, 1);
        out[1] = now() - start;
    }
}

int main(int argc, char **argv)
{
    if (argc < 9)
        return 0; /* what "exec" runs */
    struct scene s = {.kind = argv[1], .action = argv[5], .program = argv[0]};
    s.vmas = strtoul(argv[2], NULL, 10), s.span = strtoul(argv[3], NULL, 10),
    s.step = strtoul(argv[4], NULL, 10);
    s.every = strtoul(argv[6], NULL, 10), s.children = atoi(argv[7]);
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || s.children < 1 || s.children > MOST_CHILDREN || !s.step || !s.every)
        return 1;
    s.base = room(&s);
    for (size_t number = 0; number < s.vmas && !is(s.kind, "none"); number++)
        build_mapping(&s, number);
    for (int round = 0, rounds = atoi(argv[8]); round < rounds; round++) {
        int64_t out[3] = {0};
        play(&s, out);
        printf("%s[%lld, %lld, %lld]", round ? ", " : "[", (long long)out[0], (long long)out[1],
               (long long)out[2]);
    }
    printf("]\n");
    return 0;
}
