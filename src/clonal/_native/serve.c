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
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define LESSONS 3
#define ENDING_GRACE (5 * NS) /* how long clones that have answered may flush after the client left */

/* Receives one order and its socket. 1: got one; 0: nothing now, or only the question which clones have
 * started, which is answered; -1: the client is gone. */
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
    if (got == 1)
        tell_started(loop);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head == NULL || head->cmsg_type != SCM_RIGHTS || got != (long)sizeof *order)
        return 0;
    int low = *(int *)CMSG_DATA(head);
    *fd = (int)SYS(SYS_fcntl, low, F_DUPFD_CLOEXEC, loop->base);
    SYS(SYS_close, low);
    return *fd >= 0;
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

/* The client is gone or has closed the template. */
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

/* A descriptor for each clone: as many as are allowed. Clones get the program's own limit back. */
static void raise_file_limit(struct birth *birth)
{
    getrlimit(RLIMIT_NOFILE, &birth->files);
    struct rlimit most = {birth->files.rlim_max, birth->files.rlim_max};
    setrlimit(RLIMIT_NOFILE, &most);
}

static PyObject *serve(PyObject *self, PyObject *args)
{
    int control, board_fd, wire, standby, single, only_flushes;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiiipp", &control, &board_fd, &wire, &standby, &single, &only_flushes))
        return NULL;
    struct board *board = board_map(board_fd);
    if (board == NULL)
        return NULL;
    close(board_fd);
    struct birth birth = {.wire = wire};
    raise_file_limit(&birth); /* the loop's own lie above all the program's, maybe above its limit */
    struct loop *loop = open_loop(control, wire, standby, board);
    if (loop == NULL)
        return NULL;
    birth.base = loop->base;
    birth.parent = loop->pid;
    SYS(SYS_prctl, PR_SET_NAME, "clonal-template", 0, 0, 0);
    board->lessons = LESSONS;
    int mapped = 0;
    expect_clones(single, only_flushes);
#ifdef __GLIBC__
    malloc_trim(0); /* else each clone's first large allocation joins the small free pieces, page by page */
#endif
    PyOS_BeforeFork();
    set_signals(&birth);
    for (;;) {
        if (turn(loop, &birth)) {
            if (birth.lesson)
                begin_lesson(birth.parent);
            if (birth.standby) /* ahead it is free; on demand it costs what the faults would have */
                prefault_learnt(board);
            live(&birth, board);
        }
        if (!mapped && __atomic_load_n(&board->run_count, __ATOMIC_ACQUIRE)) {
            mapped = 1;
            map_learnt_reads(board);
        }
        board->live = (uint64_t)loop->live;
        if (loop->closing && loop->live == 0)
            break;
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN}; /* a Ctrl-C that waits was for the client */
    sigaction(SIGINT, &ignore, NULL);
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &birth.mask, NULL, sizeof birth.mask);
    PyOS_AfterFork_Parent();
    Py_RETURN_NONE;
}

PyMethodDef clonal_serve_methods[] = {
    {"serve", serve, METH_VARARGS,
     "serve(control, board, wire, standby, single_threaded, only_flushes): the template's loop. Returns when "
     "the "
     "client is\n"
     "gone; clones never do. After prepare_life()."},
    {NULL},
};
