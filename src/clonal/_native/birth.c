/* What happens between a fork and the first line of Python in the child. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

static uint64_t faults_so_far(void)
{
    struct rusage usage;
    SYS(SYS_getrusage, RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_minflt;
}

/* Decimal of a small number into `text`; its length. */
static int decimal(char *text, int value)
{
    char reversed[12];
    int n = 0, length = 0;
    unsigned rest = value < 0 ? (text[length++] = '-', -(unsigned)value) : (unsigned)value;
    do
        reversed[n++] = (char)('0' + rest % 10);
    while (rest /= 10);
    while (n)
        text[length++] = reversed[--n];
    return length;
}

/* Makes the OOM killer take clones before their template; raising needs no privilege. */
static void raise_oom_score(void)
{
    char text[16] = {0};
    int fd = (int)SYS(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    long got = SYS(SYS_pread64, fd, text, sizeof text - 1, 0);
    int sign = text[0] == '-' ? -1 : 1, score = 0;
    for (const char *at = text + (sign < 0); *at >= '0' && *at <= '9'; at++)
        score = score * 10 + (*at - '0');
    score = sign * score + 100;
    if (got > 0 && score <= 1000)
        SYS(SYS_write, fd, text, decimal(text, score));
    SYS(SYS_close, fd);
}

/* As the loop has set it. */
static int is_default(const struct sigaction *action)
{
    return action->sa_handler == SIG_DFL && !action->sa_flags;
}

/* In the child, before Python runs: leaves only the program's own descriptors, signals and name. Signals stay
 * blocked until Python's fork handlers have run: a KeyboardInterrupt in one of those would be lost. */
static void enter_clone(const struct birth *birth)
{
    SYS(SYS_dup3, birth->fd, birth->wire, O_CLOEXEC);
    if (SYS(SYS_close_range, birth->base, ~0U, 0) < 0)
        for (int fd = birth->base; fd < birth->base + SLOTS + 8; fd++)
            SYS(SYS_close, fd);
    SYS(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if ((pid_t)sys6(SYS_getppid, 0, 0, 0, 0, 0, 0) != birth->parent) /* it died before the prctl */
        _exit(0);
    SYS(SYS_prctl, PR_SET_NAME, "clonal-clone", 0, 0, 0);
    SYS(SYS_prlimit64, 0, RLIMIT_NOFILE, &birth->files, NULL);
    raise_oom_score();
    if (!is_default(&birth->term))
        sigaction(SIGTERM, &birth->term, NULL);
    if (!is_default(&birth->chld))
        sigaction(SIGCHLD, &birth->chld, NULL);
}

long fork_child(struct loop *loop, struct birth *birth)
{
    uint64_t faults = faults_so_far();
    birth->lesson = loop->board->learnt_clones < loop->board->lessons;
    int64_t start = now_ns();
    pid_t pid = fork();
    if (pid == 0) {
        enter_clone(birth);
        return 0;
    }
    if (pid < 0)
        return -errno;
    loop->board->forks++;
    loop->board->fork_ns += (uint64_t)(now_ns() - start);
    loop->board->faults += faults_so_far() - faults;
    loop->live++;
    return pid;
}

static PyObject *die_with_parent(PyObject *self, PyObject *args)
{
    int parent;
    (void)self;
    if (!PyArg_ParseTuple(args, "i", &parent))
        return NULL;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (getppid() != parent) /* it died before the prctl */
        raise(SIGKILL);
    Py_RETURN_NONE;
}

PyMethodDef clonal_birth_methods[] = {
    {"die_with_parent", die_with_parent, METH_VARARGS,
     "die_with_parent(pid): SIGKILL for this process as soon as its parent, `pid`, ends."},
    {NULL},
};
