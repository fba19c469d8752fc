/* The template's wait loop: one fork per order, touching as few pages as possible.
 *
 * What the loop writes between two forks lives in a MADV_DONTFORK mapping (never shared, so never
 * copied) or on the MAP_SHARED board. Left over are the stack page that the child needs too, the
 * thread block and libc's own data: two to four copy faults per fork, counted on the board.
 *
 * The loop's descriptors lie above every descriptor of the program, so that a child drops them,
 * and the sockets of its siblings, with one close_range: a sibling that kept them open would hide
 * the end of a clone from its client.
 */
#define _GNU_SOURCE
#include "native.h"
#include "serve.h"
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define LESSONS 3
#define REPLENISH_AFTER (2 * NS / 1000) /* a fork right at a hand-over would delay the clone's answer */
#define ENDING_GRACE (5 * NS) /* how long clones that have answered may flush after the client left */

enum slot_kind { FREE, CLONE, STANDBY_STARTING, STANDBY_READY };

struct slot {
    int32_t fd; /* owned; -1 when closed early */
    pid_t pid;
    int32_t next_free;
    uint8_t kind, flags, watched;
    int64_t deadline; /* 0: none */
};

/* In a MADV_DONTFORK mapping: children do not have it. */
struct loop {
    int control, epoll, sigfd, wire, base;
    int want_standby, have_standby, failed_standby;
    int used, free_list; /* slots[0..used) were used at some time */
    int deadlines;       /* how many slots have one */
    int live;
    int closing;
    int64_t closing_deadline, replenish_at;
    pid_t pid;
    uint64_t mask;
    struct board *board;
    struct slot slots[SLOTS];
};

enum { KEY_CONTROL = SLOTS, KEY_SIGNAL };

/* What a child needs and cannot read from the loop's mapping. */
struct birth {
    int fd, wire, base, slot, standby;
    pid_t parent;
    uint64_t mask;
    struct sigaction term, chld;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static uint64_t faults_so_far(void)
{
    struct rusage usage;
    SYS(SYS_getrusage, RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_minflt;
}

/* Sends a message, with `passed` by SCM_RIGHTS unless negative; never blocks. 0 or -errno. */
static long send_message(int fd, const void *data, size_t size, int passed)
{
    struct iovec part = {(void *)data, size};
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof control.room;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        *(int *)CMSG_DATA(head) = passed;
    }
    long sent = SYS(SYS_sendmsg, fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? sent : 0;
}

/* Receives one order and its socket. 1: got one; 0: nothing now; -1: the client is gone. */
static int receive_order(struct loop *loop, struct order *order, int *fd)
{
    struct iovec part = {order, sizeof *order};
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.room,
                             .msg_controllen = sizeof control.room};
    long got = SYS(SYS_recvmsg, loop->control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got == -EAGAIN || got == -EINTR)
        return 0;
    if (got <= 0)
        return -1;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head == NULL || head->cmsg_type != SCM_RIGHTS || got != (long)sizeof *order)
        return 0;
    int low = *(int *)CMSG_DATA(head);
    *fd = (int)SYS(SYS_fcntl, low, F_DUPFD_CLOEXEC, loop->base);
    SYS(SYS_close, low);
    return *fd >= 0;
}

/* Takes a free slot; -1 when there is none. */
static int take_slot(struct loop *loop)
{
    int index = loop->free_list;
    if (index >= 0)
        loop->free_list = loop->slots[index].next_free;
    else if (loop->used < SLOTS)
        index = loop->used++;
    return index;
}

static void free_slot(struct loop *loop, int index)
{
    struct slot *slot = &loop->slots[index];
    if (slot->fd >= 0)
        SYS(SYS_close, slot->fd);
    if (slot->deadline)
        loop->deadlines--;
    *slot = (struct slot){.kind = FREE, .fd = -1, .next_free = loop->free_list};
    loop->free_list = index;
}

static void watch(struct loop *loop, int index, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)index};
    loop->slots[index].watched =
        SYS(SYS_epoll_ctl, loop->epoll, EPOLL_CTL_ADD, loop->slots[index].fd, &event) == 0;
}

static void unwatch(struct loop *loop, struct slot *slot)
{
    if (slot->watched)
        SYS(SYS_epoll_ctl, loop->epoll, EPOLL_CTL_DEL, slot->fd, NULL);
    slot->watched = 0;
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

/* In the child, before Python runs: leaves only the program's own descriptors, signals and name. */
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
    raise_oom_score();
    sigaction(SIGTERM, &birth->term, NULL);
    sigaction(SIGCHLD, &birth->chld, NULL);
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &birth->mask, NULL, sizeof birth->mask);
}

/* Forks for `slot`; the child keeps `fd`. In the child 0, in the template the pid or -errno. */
static long fork_child(struct loop *loop, struct birth *birth)
{
    uint64_t faults = faults_so_far();
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

static void send_started(struct slot *slot)
{
    struct message message = {.kind = MSG_STARTED, .value = slot->pid, .ns = now_ns()};
    int pidfd = (int)SYS(SYS_pidfd_open, slot->pid, 0);
    send_message(slot->fd, &message, sizeof message, pidfd);
    if (pidfd >= 0)
        SYS(SYS_close, pidfd);
}

/* Hands the order to a standby clone. False when none is ready. */
static int hand_over(struct loop *loop, const struct order *order, int fd)
{
    for (int i = 0; i < loop->used && loop->board->standby_ready; i++) {
        struct slot *slot = &loop->slots[i];
        if (slot->kind != STANDBY_READY)
            continue;
        unwatch(loop, slot);
        loop->board->standby_ready--;
        loop->have_standby--;
        loop->board->state[i] = CLONE_RUNNING;
        slot->kind = CLONE;
        long failed = send_message(slot->fd, "g", 1, fd);
        SYS(SYS_close, slot->fd);
        slot->fd = -1;
        if (failed) { /* it died while it waited: the reaper will see it */
            SYS(SYS_kill, slot->pid, SIGKILL);
            continue;
        }
        slot->fd = fd;
        slot->deadline = (int64_t)order->deadline_ns;
        loop->deadlines += slot->deadline != 0;
        loop->board->handed++;
        if (loop->replenish_at == 0)
            loop->replenish_at = now_ns() + REPLENISH_AFTER;
        send_started(slot);
        watch(loop, i, EPOLLRDHUP);
        return 1;
    }
    return 0;
}

static void refuse(int fd, int error)
{
    struct message message = {.kind = MSG_REFUSED, .value = error, .ns = now_ns()};
    send_message(fd, &message, sizeof message, -1);
    SYS(SYS_close, fd);
}

/* One clone for one order. True in the child. */
static int make_clone(struct loop *loop, struct birth *birth, const struct order *order, int fd)
{
    if (hand_over(loop, order, fd))
        return 0;
    int index = take_slot(loop);
    if (index < 0) {
        refuse(fd, EMFILE);
        return 0;
    }
    loop->board->state[index] = CLONE_RUNNING;
    birth->fd = fd;
    birth->slot = index;
    birth->standby = 0;
    long pid = fork_child(loop, birth);
    if (pid == 0)
        return 1;
    struct slot *slot = &loop->slots[index];
    *slot =
        (struct slot){.kind = CLONE, .fd = fd, .pid = (pid_t)pid, .deadline = (int64_t)order->deadline_ns};
    loop->deadlines += slot->deadline != 0;
    if (pid < 0) {
        slot->fd = -1;
        free_slot(loop, index);
        refuse(fd, (int)-pid);
        return 0;
    }
    send_started(slot);
    watch(loop, index, EPOLLRDHUP);
    return 0;
}

static int standby_lacking(const struct loop *loop)
{
    return loop->have_standby < loop->want_standby && loop->failed_standby < 3;
}

/* One more standby clone. True in the child. Failures end the attempt until the next clone ends. */
static int make_standby(struct loop *loop, struct birth *birth)
{
    int pair[2];
    if (SYS(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        goto failed;
    int ours = (int)SYS(SYS_fcntl, pair[0], F_DUPFD_CLOEXEC, loop->base);
    int theirs = (int)SYS(SYS_fcntl, pair[1], F_DUPFD_CLOEXEC, loop->base);
    SYS(SYS_close, pair[0]);
    SYS(SYS_close, pair[1]);
    int index = ours < 0 || theirs < 0 ? -1 : take_slot(loop);
    if (index < 0) {
        SYS(SYS_close, ours);
        SYS(SYS_close, theirs);
        goto failed;
    }
    birth->fd = theirs;
    birth->slot = index;
    birth->standby = 1;
    long pid = fork_child(loop, birth);
    if (pid == 0)
        return 1;
    SYS(SYS_close, theirs);
    loop->slots[index] = (struct slot){.kind = STANDBY_STARTING, .fd = ours, .pid = (pid_t)pid};
    if (pid < 0) {
        free_slot(loop, index);
        goto failed;
    }
    loop->have_standby++;
    if (!standby_lacking(loop))
        loop->replenish_at = 0;
    watch(loop, index, EPOLLIN | EPOLLRDHUP);
    return 0;
failed:
    loop->failed_standby++;
    return 0;
}

static void clone_ended(struct loop *loop, int index, int status, const struct rusage *usage)
{
    struct slot *slot = &loop->slots[index];
    unwatch(loop, slot);
    if (slot->kind == CLONE && slot->fd >= 0) {
        struct exited message = {
            .head = {.kind = MSG_EXITED, .flags = slot->flags, .value = status, .ns = now_ns()},
            .cpu_us = (uint64_t)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1000000 +
                      (uint64_t)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec),
            .minflt = (uint64_t)usage->ru_minflt,
            .maxrss_kb = (uint64_t)usage->ru_maxrss,
        };
        send_message(slot->fd, &message, sizeof message, -1);
    }
    if (slot->kind == STANDBY_STARTING)
        loop->failed_standby++;
    if (slot->kind == STANDBY_READY)
        loop->board->standby_ready--;
    if (slot->kind == CLONE)
        loop->failed_standby = 0; /* there may be room again */
    else
        loop->have_standby--;
    loop->board->exited++;
    loop->live--;
    free_slot(loop, index);
}

/* Reaps every child that has ended; also those that the warm-up left behind. */
static void reap(struct loop *loop)
{
    struct signalfd_siginfo info;
    struct rusage usage;
    int status;
    SYS(SYS_read, loop->sigfd, &info, sizeof info);
    for (;;) {
        long pid = SYS(SYS_wait4, -1, &status, WNOHANG, &usage);
        if (pid <= 0)
            return;
        for (int i = 0; i < loop->used; i++)
            if (loop->slots[i].kind != FREE && loop->slots[i].pid == (pid_t)pid) {
                clone_ended(loop, i, status, &usage);
                break;
            }
    }
}

/* The other end of a slot's socket closed, or a standby clone says that it is ready. */
static void socket_event(struct loop *loop, int index, uint32_t events)
{
    struct slot *slot = &loop->slots[index];
    if (slot->kind == STANDBY_STARTING && events & EPOLLIN) {
        char byte;
        if (SYS(SYS_read, slot->fd, &byte, 1) == 1) {
            slot->kind = STANDBY_READY;
            loop->board->standby_ready++;
            loop->failed_standby = 0;
            return;
        }
    }
    unwatch(loop, slot);
    if (slot->kind == CLONE && loop->board->state[index] != CLONE_DELIVERED) {
        slot->flags |= EXIT_ABANDONED;
        SYS(SYS_kill, slot->pid, SIGKILL);
    }
}

static void enforce_deadlines(struct loop *loop)
{
    int64_t now = now_ns();
    for (int i = 0; i < loop->used; i++) {
        struct slot *slot = &loop->slots[i];
        if (slot->deadline == 0 || slot->deadline > now)
            continue;
        slot->deadline = 0;
        loop->deadlines--;
        slot->flags |= EXIT_TIMED_OUT;
        SYS(SYS_kill, slot->pid, SIGKILL);
    }
}

/* Milliseconds until something is due, -1: never. */
static int next_timeout(struct loop *loop)
{
    int64_t first = loop->closing_deadline ? loop->closing_deadline : INT64_MAX;
    if (standby_lacking(loop) && loop->replenish_at < first)
        first = loop->replenish_at;
    for (int i = 0; loop->deadlines && i < loop->used; i++)
        if (loop->slots[i].deadline && loop->slots[i].deadline < first)
            first = loop->slots[i].deadline;
    if (first == INT64_MAX)
        return -1;
    int64_t left = first - now_ns();
    if (left <= 0)
        return 0;
    left = (left + 999999) / 1000000;
    return left > 3600000 ? 3600000 : (int)left;
}

/* The client is gone or closed the template: ends the clones, `all` or those still at work. */
static void end_clones(struct loop *loop, int all)
{
    for (int i = 0; i < loop->used; i++)
        if (loop->slots[i].kind != FREE &&
            (all || loop->slots[i].kind != CLONE || loop->board->state[i] != CLONE_DELIVERED))
            SYS(SYS_kill, loop->slots[i].pid, SIGKILL);
}

static void start_closing(struct loop *loop)
{
    SYS(SYS_epoll_ctl, loop->epoll, EPOLL_CTL_DEL, loop->control, NULL);
    loop->closing = 1;
    loop->want_standby = 0;
    loop->closing_deadline = now_ns() + ENDING_GRACE;
    end_clones(loop, 0);
}

/* One wait and what it brought. True in a child. */
static int turn(struct loop *loop, struct birth *birth)
{
    struct epoll_event event;
    long count = SYS(SYS_epoll_pwait, loop->epoll, &event, 1, next_timeout(loop), NULL, 8);
    if (loop->deadlines)
        enforce_deadlines(loop);
    if (loop->closing && now_ns() >= loop->closing_deadline)
        end_clones(loop, 1);
    if (count == 0 && standby_lacking(loop) && loop->replenish_at <= now_ns()) /* orders come first */
        return make_standby(loop, birth);
    if (count <= 0)
        return 0;
    if (event.data.u64 == KEY_SIGNAL) {
        reap(loop);
    } else if (event.data.u64 == KEY_CONTROL) {
        struct order order;
        int fd = -1, got = receive_order(loop, &order, &fd);
        if (got < 0)
            start_closing(loop);
        return got > 0 && make_clone(loop, birth, &order, fd);
    } else {
        socket_event(loop, (int)event.data.u64, event.events);
    }
    return 0;
}

/* Moves a descriptor above the program's own. The new one, or -1 with errno. */
static int lift(int fd, int base)
{
    int high = fcntl(fd, F_DUPFD_CLOEXEC, base);
    if (fd >= 0)
        close(fd);
    return high;
}

/* Builds the loop's state; NULL with a Python error. `control` is taken over. */
static struct loop *open_loop(int control, int wire, int standby, struct board *board)
{
    size_t size = sizeof(struct loop);
    struct loop *loop = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (loop == MAP_FAILED)
        return (struct loop *)PyErr_SetFromErrno(PyExc_OSError);
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    loop->base = wire + 1;
    loop->wire = wire;
    loop->board = board;
    loop->pid = getpid();
    loop->free_list = -1;
    loop->want_standby = standby;
    loop->control = lift(control, loop->base);
    loop->epoll = lift(epoll_create1(EPOLL_CLOEXEC), loop->base);
    loop->sigfd = lift(signalfd(-1, &chld, SFD_NONBLOCK | SFD_CLOEXEC), loop->base);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = KEY_CONTROL};
    if (madvise(loop, size, MADV_DONTFORK) < 0 || loop->control < 0 || loop->epoll < 0 || loop->sigfd < 0 ||
        epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->control, &event) < 0)
        goto err;
    event.data.u64 = KEY_SIGNAL;
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->sigfd, &event) < 0)
        goto err;
    return loop;
err:
    PyErr_SetFromErrno(PyExc_OSError);
    munmap(loop, size);
    return NULL;
}

/* While the loop runs SIGTERM ends the template whatever the program set, and nothing else
 * interrupts it; SIGCHLD must not be ignored, or children would vanish unreaped. */
static void set_signals(struct birth *birth)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigset_t blocked;
    uint64_t kernel_mask;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGTERM);
    sigdelset(&blocked, SIGABRT);
    sigdelset(&blocked, SIGQUIT);
    memcpy(&kernel_mask, &blocked, sizeof kernel_mask);
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &kernel_mask, &birth->mask, sizeof kernel_mask);
    sigaction(SIGTERM, &plain, &birth->term);
    sigaction(SIGCHLD, &plain, &birth->chld);
}

static PyObject *serve(PyObject *self, PyObject *args)
{
    int control, board_fd, wire, standby;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiii", &control, &board_fd, &wire, &standby))
        return NULL;
    struct board *board = board_map(board_fd);
    if (board == NULL)
        return NULL;
    close(board_fd);
    struct loop *loop = open_loop(control, wire, standby, board);
    if (loop == NULL)
        return NULL;
    struct birth birth = {.wire = wire, .base = loop->base, .parent = loop->pid};
    board->lessons = standby > 0 ? LESSONS : 0;
    PyOS_BeforeFork();
    set_signals(&birth);
    for (;;) {
        if (turn(loop, &birth)) {
            if (birth.standby) /* ahead it is free; on demand it costs what the faults would have */
                prefault_learnt(board);
            PyOS_AfterFork_Child();
            return Py_BuildValue("(iOKi)", birth.wire, birth.standby ? Py_True : Py_False,
                                 (unsigned long long)(uintptr_t)board, birth.slot);
        }
        board->live = (uint64_t)loop->live;
        if (loop->closing && loop->live == 0)
            break;
    }
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &birth.mask, NULL, sizeof birth.mask);
    PyOS_AfterFork_Parent();
    Py_RETURN_NONE;
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

PyMethodDef clonal_serve_methods[] = {
    {"die_with_parent", die_with_parent, METH_VARARGS,
     "die_with_parent(pid): SIGKILL for this process as soon as its parent, `pid`, ends."},
    {"serve", serve, METH_VARARGS,
     "serve(control, board, wire, standby): the template's loop. Returns None in the template when the "
     "client\n"
     "is gone, and in each child (socket, is_standby, board_address, slot)."},
    {NULL},
};
