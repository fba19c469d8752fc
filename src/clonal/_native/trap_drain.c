/* What the handler noted, made readable: called in ordinary Python code, while the recording goes on. */
#define _GNU_SOURCE
#include "native.h"
#include "pagemap.h"
#include "trap_state.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A name out of the ring; of another process it may be anything. */
static PyObject *text_at(const struct ring *ring, uint32_t start)
{
    if (start >= NAMES_TEXT)
        start = 0;
    return PyUnicode_DecodeUTF8(ring->names + start,
                                (Py_ssize_t)strnlen(ring->names + start, NAMES_TEXT - start), "replace");
}

/* (function, file, line) of a frame, or None if there was no room for its name. */
static PyObject *described(const struct ring *ring, struct frame frame)
{
    if (frame.code >= ring->codes || frame.code >= CODES || !ring->code[frame.code].name)
        Py_RETURN_NONE;
    const struct code *code = &ring->code[frame.code];
    PyObject *name = text_at(ring, code->name), *file = name ? text_at(ring, code->file) : NULL;
    if (!file) {
        Py_XDECREF(name);
        return NULL;
    }
    return Py_BuildValue("(NNi)", name, file, frame.line);
}

static PyObject *described_stack(const struct ring *ring, const struct stack *stack)
{
    PyObject *frames = PyList_New(0);
    for (uint32_t i = 0; frames && i < stack->depth && stack->first + i < FRAMES; i++) {
        PyObject *frame = described(ring, ring->frame[stack->first + i]);
        if (!frame || PyList_Append(frames, frame) < 0)
            Py_CLEAR(frames);
        Py_XDECREF(frame);
    }
    return frames;
}

/* Stacks that have not been written out. */
static PyObject *new_stacks(const struct ring *ring)
{
    PyObject *found = PyList_New(0);
    for (uint32_t i = ring->drained_stacks; found && i < ring->stacks && i < STACKS; i++) {
        PyObject *stack = described_stack(ring, &ring->stack[i]);
        if (!stack || PyList_Append(found, stack) < 0)
            Py_CLEAR(found);
        Py_XDECREF(stack);
    }
    return found;
}

static PyObject *new_types(const struct ring *ring)
{
    PyObject *found = PyList_New(0);
    for (uint32_t i = ring->drained_types; found && i < ring->types && i < TYPES; i++) {
        PyObject *name = text_at(ring, ring->type[i].name);
        if (!name || PyList_Append(found, name) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

/* What has not been written out: (faults as bytes, new stacks, new types, lost, first touches, and how
 * many stacks, types and faults have been). */
static PyObject *undrained(const struct ring *ring)
{
    uint32_t count = ring->faults < FAULTS ? ring->faults : FAULTS;
    PyObject *stacks = new_stacks(ring), *types = stacks ? new_types(ring) : NULL;
    if (!types) {
        Py_XDECREF(stacks);
        return NULL;
    }
    return Py_BuildValue("(y#NNIIIIK)", (const char *)ring->fault, (Py_ssize_t)(count * sizeof(struct fault)),
                         stacks, types, ring->lost, ring->fresh, ring->drained_stacks, ring->drained_types,
                         (unsigned long long)ring->drained_faults);
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
    ring->drained_faults += count;
    ring->pool = 0; /* it may be another one's by now */
    memmove(ring->fault, ring->fault + count, ring->faults * sizeof *ring->fault);
    __atomic_store_n(&clonal_trap.busy, 0, __ATOMIC_RELEASE);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* trap_drain() -> see undrained(); None if nothing is recorded here. What this itself copies is recorded too,
 * and has the caller on its stack. */
static PyObject *trap_drain(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    struct ring *ring = clonal_trap.ring;
    if (!ring || clonal_trap.owner != getpid())
        Py_RETURN_NONE;
    clonal_trap.drained_at = trap_now();
    return undrained(ring);
}

/* trap_drained(faults, stacks, types, lost, first touches): that many have been written out. A process that
 * is killed before it says so has them twice in the recording, with the same numbers. */
static PyObject *trap_drained(PyObject *module, PyObject *args)
{
    (void)module;
    struct ring *ring = clonal_trap.ring;
    unsigned faults, stacks, types, lost, fresh;
    if (!PyArg_ParseTuple(args, "IIIII", &faults, &stacks, &types, &lost, &fresh))
        return NULL;
    if (!ring || clonal_trap.owner != getpid() || faults > ring->faults)
        Py_RETURN_NONE;
    take_out(ring, faults);
    ring->drained_stacks += stacks, ring->drained_types += types;
    ring->lost -= lost, ring->fresh -= fresh;
    Py_RETURN_NONE;
}

/* trap_salvage(fd) -> (what trap_drain() would say, /proc/PID/maps as bytes) of a process that has ended,
 * whose ring is in this memory file. Raises ValueError if it is none. */
static PyObject *trap_salvage(PyObject *module, PyObject *argument)
{
    (void)module;
    struct stat status;
    int fd = PyObject_AsFileDescriptor(argument);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &status) < 0 || status.st_size != sizeof(struct ring))
        return PyErr_Format(PyExc_ValueError, "this is no ring of faults: one has %zu bytes",
                            sizeof(struct ring));
    struct ring *ring = mmap(NULL, sizeof *ring, PROT_READ, MAP_SHARED, fd, 0);
    if (ring == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    uint32_t length = ring->text_end < TEXT ? ring->text_end : TEXT;
    PyObject *found = undrained(ring);
    PyObject *result = found ? Py_BuildValue("(Ny#)", found, ring->text, (Py_ssize_t)length) : NULL;
    munmap(ring, sizeof *ring);
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
            if (*seen & PAGE_SEEN || !copied || (*seen & PAGE_WATCHED && watched && trap_remapped(page + i)))
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
    bool here = clonal_trap.owner == getpid() && trap_is_whole(), watched = here && trap_watched();
    for (uint32_t i = 0; records && here && i < all->count; i++)
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

uint32_t trap_read_maps(struct ring *ring)
{
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    for (ssize_t got; fd >= 0 && (got = read(fd, ring->text + length, TEXT - length)) > 0;)
        length += (size_t)got;
    if (fd >= 0)
        close(fd);
    return ring->text_end = (uint32_t)length;
}

/* trap_maps() -> /proc/self/maps as bytes, read without the kernel writing to a page that is shared. */
static PyObject *trap_maps(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    struct ring *ring = clonal_trap.ring;
    if (!ring || clonal_trap.owner != getpid())
        Py_RETURN_NONE;
    trap_read_maps(ring);
    return PyBytes_FromStringAndSize(ring->text, (Py_ssize_t)ring->text_end);
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
    {"trap_drain", trap_drain, METH_NOARGS, NULL}, {"trap_drained", trap_drained, METH_VARARGS, NULL},
    {"trap_salvage", trap_salvage, METH_O, NULL},  {"trap_rest", trap_rest, METH_NOARGS, NULL},
    {"trap_stop", trap_stop, METH_O, NULL},        {"trap_maps", trap_maps, METH_NOARGS, NULL},
    {"trap_symbol", trap_symbol, METH_O, NULL},    {NULL, NULL, 0, NULL},
};
