/* The slots of the loop: one for each child, from the order that made it to its end. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define REPLENISH_AFTER (2 * NS / 1000) /* a fork right at a hand-over would delay the clone's answer */

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

static void send_started(struct slot *slot)
{
    struct message message = {.kind = MSG_STARTED, .value = slot->pid, .ns = slot->started};
    if (slot->told || slot->fd < 0)
        return;
    int pidfd = (int)SYS(SYS_pidfd_open, slot->pid, 0);
    send_message(slot->fd, &message, sizeof message, pidfd);
    if (pidfd >= 0)
        SYS(SYS_close, pidfd);
    slot->told = 1;
}

void tell_started(struct loop *loop)
{
    for (int i = 0; i < loop->used; i++)
        if (loop->slots[i].kind == CLONE)
            send_started(&loop->slots[i]);
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
        slot->started = now_ns();
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

int make_clone(struct loop *loop, struct birth *birth, const struct order *order, int fd)
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
    slot->started = now_ns();
    watch(loop, index, EPOLLRDHUP);
    return 0;
}

int standby_lacking(const struct loop *loop)
{
    return loop->have_standby < loop->want_standby && loop->failed_standby < 3;
}

int make_standby(struct loop *loop, struct birth *birth)
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

void reap(struct loop *loop)
{
    struct signalfd_siginfo info;
    struct rusage usage;
    int status;
    SYS(SYS_read, loop->sigfd, &info, sizeof info);
    for (;;) {
        siginfo_t ended = {.si_pid = 0};
        SYS(SYS_waitid, P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT, NULL);
        if (ended.si_pid == 0)
            return;
        int index = 0;
        while (index < loop->used &&
               (loop->slots[index].kind == FREE || loop->slots[index].pid != ended.si_pid))
            index++;
        if (index < loop->used && loop->slots[index].kind == CLONE)
            send_started(&loop->slots[index]); /* while its pid is still its own */
        SYS(SYS_wait4, ended.si_pid, &status, WNOHANG, &usage);
        if (index < loop->used)
            clone_ended(loop, index, status, &usage);
    }
}

void socket_event(struct loop *loop, int index, uint32_t events)
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

void enforce_deadlines(struct loop *loop)
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

void end_clones(struct loop *loop, int all)
{
    for (int i = 0; i < loop->used; i++)
        if (loop->slots[i].kind != FREE &&
            (all || loop->slots[i].kind != CLONE || loop->board->state[i] != CLONE_DELIVERED))
            SYS(SYS_kill, loop->slots[i].pid, SIGKILL);
}
