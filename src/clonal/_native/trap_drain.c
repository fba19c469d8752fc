/* What the handler noted, made readable: called in ordinary Python code, with the recording paused. */
#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include "native.h"
#include "trap_state.h"

#include <dlfcn.h>
#include <unistd.h>

#include <internal/pycore_frame.h>

/* (function, file, line) of a frame, or None if the code object is gone. */
static PyObject *described(struct frame frame)
{
    uint64_t words[2];
    if (!trap_peek(frame.code, words, sizeof words) || words[1] != (uint64_t)&PyCode_Type || !words[0])
        Py_RETURN_NONE;
    PyCodeObject *code = (PyCodeObject *)frame.code;
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
        PyObject *name = PyUnicode_FromString(type->tp_name);
        if (!name || PyList_Append(found, name) < 0)
            Py_CLEAR(found);
        Py_XDECREF(name);
    }
    return found;
}

/* trap_drain() -> (faults as bytes, new stacks, new types, lost, first touches), or None if none are
 * recorded. */
static PyObject *trap_drain(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    struct ring *ring = clonal_trap.ring;
    if (!ring || clonal_trap.owner != getpid())
        Py_RETURN_NONE;
    clonal_trap_switch(false);
    PyObject *stacks = new_stacks(ring), *types = stacks ? new_types(ring) : NULL, *result = NULL;
    if (types)
        result =
            Py_BuildValue("(y#OOII)", (char *)ring->fault, (Py_ssize_t)(ring->faults * sizeof(struct fault)),
                          stacks, types, ring->lost, ring->fresh);
    if (result)
        ring->faults = ring->lost = ring->fresh = 0;
    Py_XDECREF(stacks);
    Py_XDECREF(types);
    clonal_trap_switch(true);
    return result;
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
    {"trap_drain", trap_drain, METH_NOARGS, NULL},
    {"trap_symbol", trap_symbol, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
