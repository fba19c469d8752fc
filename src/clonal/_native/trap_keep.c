/* Gives the ring of this process to the recorder, who reads what is left in it should the process be killed.
 */
#define _GNU_SOURCE
#include "native.h"
#include "trap_state.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

struct ring *trap_new_ring(void)
{
    int fd = memfd_create("recorded-faults", MFD_CLOEXEC);
    void *found = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof(struct ring)) == 0)
        found = mmap(NULL, sizeof(struct ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found == MAP_FAILED) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    madvise(found, sizeof(struct ring), MADV_DONTFORK);
    clonal_trap.ring_file = fd;
    return found;
}

static int send_ring(const char *name, Py_ssize_t length, const char *secret, Py_ssize_t secret_length)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 1};
    struct {
        char secret[32];
        int64_t pid;
    } text = {.pid = getpid()};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec part = {&text, sizeof text};
    struct msghdr message = {
        .msg_name = &address,
        .msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length),
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    if (length > (Py_ssize_t)sizeof address.sun_path || secret_length != (Py_ssize_t)sizeof text.secret)
        return EINVAL;
    memcpy(address.sun_path, name, (size_t)length);
    memcpy(text.secret, secret, sizeof text.secret);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(head), &clonal_trap.ring_file, sizeof(int));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    int error = sendmsg(fd, &message, MSG_NOSIGNAL) < 0 ? errno : 0;
    close(fd);
    return error;
}

/* trap_hand_over(address, secret) -> 0, or the errno with which nobody took it. Once for each ring; it can be
 * handed over no more afterwards. */
static PyObject *trap_hand_over(PyObject *module, PyObject *args)
{
    (void)module;
    const char *address, *secret;
    Py_ssize_t length, secret_length;
    if (!PyArg_ParseTuple(args, "y#y#", &address, &length, &secret, &secret_length))
        return NULL;
    int error = 0;
    if (clonal_trap.ring_file >= 0 && clonal_trap.owner == getpid()) {
        error = length ? send_ring(address, length, secret, secret_length) : 0;
        close(clonal_trap.ring_file);
        clonal_trap.ring_file = -1;
    }
    return PyLong_FromLong(error);
}

PyMethodDef clonal_trap_keep_methods[] = {
    {"trap_hand_over", trap_hand_over, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
