/* The few things that only CPython's internal headers tell; by version, checked before use. */
#define Py_BUILD_CORE 1
#include "heap.h"

#if PY_VERSION_HEX < 0x030E0000
#undef _PyGC_FINALIZED
#include <internal/pycore_interp.h>
#define HAS_ATEXIT_ARRAY 1
#endif

/* The table of interned strings (borrowed), or NULL. Attribute and variable names which C code holds
 * are in no object that the walk can reach. */
PyObject *clonal_interned_strings(void)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
    PyObject *table = PyInterpreterState_Get()->cached_objects.interned_strings;
    return table && PyDict_CheckExact(table) ? table : NULL;
#else
    return NULL;
#endif
}

#ifdef HAS_ATEXIT_ARRAY
/* Bring the newest callback to the front: atexit runs from the end, so it now runs last. */
static bool rotate(struct atexit_state *state, PyObject *callback)
{
    int n = state->ncallbacks;
    if (n < 1 || n > state->callback_len || !state->callbacks[n - 1])
        return false;
    if (state->callbacks[n - 1]->func != callback)
        return false; /* not the structure these headers describe */
    void *ours = state->callbacks[n - 1];
    memmove(state->callbacks + 1, state->callbacks, (size_t)(n - 1) * sizeof *state->callbacks);
    state->callbacks[0] = ours;
    return true;
}
#endif

/* atexit_is_last(callback) -> bool: it is registered, and runs after all others. */
PyObject *clonal_atexit_is_last(PyObject *module, PyObject *callback)
{
    (void)module;
#ifdef HAS_ATEXIT_ARRAY
    struct atexit_state *state = &PyInterpreterState_Get()->atexit;
    return PyBool_FromLong(state->ncallbacks && state->callbacks[0] && state->callbacks[0]->func == callback);
#else
    (void)callback;
    Py_RETURN_FALSE;
#endif
}

/* atexit_last(callback) -> bool: the callback just registered shall run after all others, those
 * registered before it too. False where that cannot be arranged: it keeps its place. */
PyObject *clonal_atexit_last(PyObject *module, PyObject *callback)
{
    (void)module;
#ifdef HAS_ATEXIT_ARRAY
    return PyBool_FromLong(rotate(&PyInterpreterState_Get()->atexit, callback));
#else
    (void)callback;
    Py_RETURN_FALSE;
#endif
}
