/* Running finalisers of objects whose count never reaches zero. */
#include "heap.h"

static int append_finalisable(PyObject *object, PyObject *list)
{
    return has_finaliser(Py_TYPE(object)) ? PyList_Append(list, object) : 0;
}

#if PY_VERSION_HEX >= 0x030C0000
static int collect_one(PyObject *object, void *stack)
{
    /* no list may grow here: an allocation could be a new object of the list that is being visited */
    return !has_finaliser(Py_TYPE(object)) || stack_push(stack, object);
}

static int collect_finalisable(PyObject *list)
{
    struct ptr_stack found = {0};
    int result = 0;
    PyUnstable_GC_VisitObjects(collect_one, &found);
    for (size_t i = 0; i < found.n && result == 0; i++)
        result = append_finalisable(found.items[i], list);
    clonal_stack_free(&found);
    return result;
}
#else
static int collect_finalisable(PyObject *list)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *all = gc ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;
    int result = all ? 0 : -1;
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(all); i++)
        result = append_finalisable(PyList_GET_ITEM(all, i), list);
    Py_XDECREF(gc);
    Py_XDECREF(all);
    return result;
}
#endif

/* finalisable_objects() -> list: those with a finaliser among the collector's objects, without what
 * gc.freeze() hid from it. */
PyObject *clonal_finalisable_objects(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyList_New(0);
    if (list && collect_finalisable(list) < 0)
        Py_CLEAR(list);
    return list;
}

/* has_finaliser(type) -> bool */
PyObject *clonal_has_finaliser(PyObject *module, PyObject *type)
{
    (void)module;
    if (!PyType_Check(type))
        return PyErr_Format(PyExc_TypeError, "has_finaliser() needs a type, not %R", type);
    return PyBool_FromLong(has_finaliser((PyTypeObject *)type));
}

/* finalise(object): what the interpreter would call when the last reference goes: closes a file, runs
 * __del__ or a generator's finally. A second call does nothing for objects the collector knows.
 * Errors are reported as unraisable by the finaliser itself. */
PyObject *clonal_finalise(PyObject *module, PyObject *object)
{
    (void)module;
    PyTypeObject *type = Py_TYPE(object);
    if (type->tp_finalize)
        PyObject_CallFinalizer(object);
    else if (type->tp_del)
        type->tp_del(object);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(object);
    Py_RETURN_NONE;
}
