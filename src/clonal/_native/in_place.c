/* What needs no image: thread pools brought to rest by their fork handlers, huge pages in place. */
#define _GNU_SOURCE
#include "native.h"

#include "vma.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define VMA_CAPACITY (1l << 17)
#define TEXT_BYTES (64ul << 10)

PyDoc_STRVAR(
    quiesce_doc,
    "quiesce()\n--\n\nRun the fork handlers of all libraries, by a child that exits at once: thread\n"
    "pools with such handlers (OpenBLAS) stop. Raises OSError if fork fails.");

static PyObject *py_quiesce(PyObject *self, PyObject *ignored)
{
    (void)self, (void)ignored;
    sigset_t child, old, pending;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &child, &old);
    sigpending(&pending);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    int error = errno;
    if (pid > 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        /* Nobody but us may see that this child ended. */
        struct timespec zero = {0, 0};
        if (!sigismember(&pending, SIGCHLD))
            sigtimedwait(&child, NULL, &zero);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (pid < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

struct scratch {
    struct vma vmas[VMA_CAPACITY];
    char text[TEXT_BYTES];
};

PyDoc_STRVAR(collapse_doc,
             "collapse(page, block)\n--\n\nBack the private memory of this process by huge pages where it "
             "is, without\n"
             "moving it. Returns (bytes now huge, bytes refused). Raises OSError if smaps cannot be read.");

static PyObject *py_collapse(PyObject *self, PyObject *args)
{
    unsigned long long page, block, done = 0, refused = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "KK", &page, &block))
        return NULL;
    struct scratch *scratch = mmap(NULL, sizeof *scratch, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (scratch == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    long count = read_vmas(scratch->vmas, VMA_CAPACITY, scratch->text, TEXT_BYTES);
    for (long i = 0; i < count; i++) {
        const struct vma *vma = &scratch->vmas[i];
        if (vma->keep != KEEP_NONE || vma->kind != VMA_ANON || vma->anonymous * 2 < vma->end - vma->start)
            continue;
        for (uint64_t at = (vma->start + block - 1) / block * block; at + block <= vma->end; at += block) {
            if (madvise((void *)at, block, MADV_COLLAPSE) == 0)
                done += block;
            else
                refused += block;
        }
    }
    munmap(scratch, sizeof *scratch);
    if (count < 0) {
        errno = (int)-count;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("(KK)", done, refused);
}

PyMethodDef clonal_in_place_methods[] = {
    {"quiesce", py_quiesce, METH_NOARGS, quiesce_doc},
    {"collapse", py_collapse, METH_VARARGS, collapse_doc},
    {NULL},
};
