/* What the handler noted, made readable: called in ordinary Python code, while the recording goes on. */
#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include "native.h"
#include "pagemap.h"
#include "trap_state.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <internal/pycore_frame.h>

/* Reads the count and the type of an object. False if it is gone: a free block of a pool begins with a
 * pointer to the next, and still has the type. No count is above 32 bits, nor is an immortal one. */
static bool alive(uint64_t object, uint64_t words[2])
{
    return trap_peek(object, words, 2 * sizeof *words) && words[0] && words[0] <= UINT32_MAX;
}

/* (function, file, line) of a frame, or None if the code object is gone. */
static PyObject *described(struct frame frame)
{
    uint64_t words[2];
    if (!alive(frame.code, words) || words[1] != (uint64_t)&PyCode_Type)
        Py_RETURN_NONE;
    PyCodeObject *code = (PyCodeObject *)frame.code;
    if (frame.instruction >= (uint64_t)Py_SIZE(code)) /* another code object lies there by now */
        Py_RETURN_NONE;
    int line = PyCode_Addr2Line(code, (int)(frame.instruction * sizeof(_Py_CODEUNIT)));
    return Py_BuildValue("(OOi)", code->co_qualname, code->co_filename, line);
}

static PyObject *described_stack(const struct ring *ring, const struct stack *stack)
{
    PyObject *frames = PyList_New(stack->depth);
    for (uint32_t i = 0; frames && i < stack->depth; i++) {
        PyObject *frame = described(ring->frame[stack->first + i]);
        if (!frame) {
            Py_DECREF(frames);
            return NULL;
        }
        PyList_SET_ITEM(frames, i, frame);
    }
    return frames;
}

/* Stacks from `drained` on; their numbers go on from there. */
static PyObject *new_stacks(struct ring *ring)
{
    PyObject *found = PyList_New(0);
    for (; found && ring->drained_stacks < ring->stacks; ring->drained_stacks++) {
        PyObject *stack = described_stack(ring, &ring->stack[ring->drained_stacks]);
        if (!stack || PyList_Append(found, stack) < 0)
            Py_CLEAR(found);
        Py_XDECREF(stack);
    }
    return found;
}

static PyObject *new_types(struct ring *ring)
{
    PyObject *found = PyList_New(0);
    for (; found && ring->drained_types < ring->types; ring->drained_types++) {
        PyTypeObject *type = (PyTypeObject *)ring->type[ring->drained_types].type;
        uint64_t words[2];
        PyObject *name = PyUnicode_FromString(alive((uint64_t)type, words) ? type->tp_name : "");
        if (!name || PyList_Append(found, name) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

/* Takes `count` records out of the ring; what came meanwhile stays. The handler of this thread must not come
 * between, for it would wait for ever: its signal is blocked, which the kernel respects (kernel/events/core.c
 * send_sig_perf). */
static void take_out(struct ring *ring, uint32_t count)
{
    sigset_t trap, before;
    sigemptyset(&trap);
    sigaddset(&trap, SIGTRAP);
    pthread_sigmask(SIG_BLOCK, &trap, &before);
    while (__atomic_exchange_n(&clonal_trap.busy, 1, __ATOMIC_ACQUIRE))
        ;
    ring->faults -= count;
    ring->pool = 0; /* it may be another one's by now */
    memmove(ring->fault, ring->fault + count, ring->faults * sizeof *ring->fault);
    __atomic_store_n(&clonal_trap.busy, 0, __ATOMIC_RELEASE);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* trap_drain() -> (faults as bytes, new stacks, new types, lost, first touches), or None if nothing is
 * recorded here. What this itself copies is recorded too, and has the caller on its stack. */
static PyObject *trap_drain(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    struct ring *ring = clonal_trap.ring;
    if (!ring || clonal_trap.owner != getpid())
        Py_RETURN_NONE;
    uint32_t count = ring->faults, lost = ring->lost, fresh = ring->fresh;
    PyObject *stacks = new_stacks(ring), *types = stacks ? new_types(ring) : NULL, *result = NULL;
    if (types)
        result = Py_BuildValue("(y#OOII)", (char *)ring->fault, (Py_ssize_t)(count * sizeof(struct fault)),
                               stacks, types, lost, fresh);
    if (result) {
        take_out(ring, count);
        ring->lost -= lost, ring->fresh -= fresh;
    }
    Py_XDECREF(stacks);
    Py_XDECREF(types);
    return result;
}

/* Appends a page that no fault of user code accounts for. With traps, the kernel wrote to it in a system
 * call. */
static bool append_page(PyObject *records, uint64_t page, int outcome)
{
    struct fault fault = {.address = page * 4096, .outcome = (uint8_t)outcome};
    fault.cause = clonal_trap.events ? CAUSE_DATA : CAUSE_UNKNOWN;
    fault.in_pool = trap_in_pool(clonal_trap.ring, fault.address);
    fault.time = trap_now();
    Py_ssize_t size = PyByteArray_GET_SIZE(records);
    if (PyByteArray_Resize(records, size + (Py_ssize_t)sizeof fault) < 0)
        return false;
    memcpy(PyByteArray_AS_STRING(records) + size, &fault, sizeof fault);
    return true;
}

static bool append_run(PyObject *records, const struct inherited *all, const struct run *run, bool watched)
{
    uint64_t *entries = clonal_trap.ring->entries;
    for (uint64_t page = run->first; page < run->last; page += 4096) {
        uint64_t count = run->last - page < 4096 ? run->last - page : 4096;
        if (pread(clonal_trap.pagemap, entries, count * 8, (off_t)page * 8) != (ssize_t)(count * 8))
            return true; /* unmapped meanwhile */
        for (uint64_t i = 0; i < count; i++) {
            uint8_t *seen = &all->seen[run->at + page + i - run->first];
            int outcome = trap_outcome(all, run, page + i, entries[i]);
            bool copied = outcome == COPIED || outcome == COPIED_FROM_FILE;
            if (outcome == COPIED_OR_REUSED)
                copied = *seen & PAGE_WATCHED ? watched && !(entries[i] & PM_WATCHED)
                                              : !clonal_trap.events && entries[i] & PM_EXCLUSIVE;
            if (*seen & PAGE_SEEN || !copied)
                continue;
            *seen |= PAGE_SEEN;
            if (!append_page(records, page + i, outcome))
                return false;
        }
    }
    return true;
}

/* trap_rest() -> records of pages that were copied without a fault of user code, as bytes. Only of pages that
 * are watched, where the kernel shows frame numbers, or of files: that a page has become this process's alone
 * may also mean that the others let go of it. */
static PyObject *trap_rest(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *records = PyByteArray_FromStringAndSize(NULL, 0);
    const struct inherited *all = &clonal_trap.inherited;
    bool watched = clonal_trap.owner == getpid() && trap_watched();
    for (uint32_t i = 0; records && clonal_trap.owner == getpid() && i < all->count; i++)
        if (!append_run(records, all, &all->runs[i], watched))
            Py_CLEAR(records);
    PyObject *found = records ? PyBytes_FromObject(records) : NULL;
    Py_XDECREF(records);
    return found;
}

/* trap_stop(ends): no more faults are noted; whether the process ends too. */
static PyObject *trap_stop(PyObject *module, PyObject *ends)
{
    (void)module;
    clonal_trap_close(ends == Py_True);
    Py_RETURN_NONE;
}

/* trap_maps() -> /proc/self/maps as bytes, read without the kernel writing to a page that is shared. */
static PyObject *trap_maps(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    struct ring *ring = clonal_trap.ring;
    if (!ring || clonal_trap.owner != getpid())
        Py_RETURN_NONE;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    for (ssize_t got; fd >= 0 && (got = read(fd, ring->text + length, TEXT - length)) > 0;)
        length += (size_t)got;
    if (fd >= 0)
        close(fd);
    return PyBytes_FromStringAndSize(ring->text, (Py_ssize_t)length);
}

/* trap_symbol(address) -> (library, symbol or None), or None where there is no code. */
static PyObject *trap_symbol(PyObject *module, PyObject *argument)
{
    (void)module;
    void *address = PyLong_AsVoidPtr(argument);
    Dl_info info;
    if (PyErr_Occurred())
        return NULL;
    if (!dladdr(address, &info) || !info.dli_fname)
        Py_RETURN_NONE;
    return Py_BuildValue("(zz)", info.dli_fname, info.dli_sname);
}

PyMethodDef clonal_trap_drain_methods[] = {
    {"trap_drain", trap_drain, METH_NOARGS, NULL}, {"trap_rest", trap_rest, METH_NOARGS, NULL},
    {"trap_stop", trap_stop, METH_O, NULL},        {"trap_maps", trap_maps, METH_NOARGS, NULL},
    {"trap_symbol", trap_symbol, METH_O, NULL},    {NULL, NULL, 0, NULL},
};
