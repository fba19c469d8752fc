/* Whether this interpreter leaves the count of an immortal object unwritten: tried, not assumed. */
#include "heap.h"

#ifdef CLONAL_HAS_IMMORTALS

/* What the interpreter itself uses. From 3.14 only the low half is the same for all. */
uint32_t clonal_immortal_count(void)
{
    return *count_of(Py_None);
}

static const char holding[] = "held = [x for _ in range(100)]\n"
                              "more = [(x, x) for _ in range(100)]\n"
                              "def pass_on(a, depth=20):\n"
                              "    b = a\n"
                              "    return pass_on(b, depth - 1) if depth else held.append(b)\n"
                              "for _ in range(50): pass_on(x)\n"
                              "table = {i: x for i in range(100)}\n";
static const char dropping[] = "held.clear(); more.clear(); table.clear()\n";

/* 0 if `code`, run with x = `object`, left the whole count of `object` as it was. */
static int count_survives(PyObject *globals, PyObject *object, const char *code)
{
    Py_ssize_t before = object->ob_refcnt;
    PyObject *done = PyRun_String(code, Py_file_input, globals, globals);
    Py_XDECREF(done);
    return done && object->ob_refcnt == before ? 0 : -1;
}

/* The same through the C API, inline and as functions, out of balance on purpose. */
static int count_survives_c(PyObject *object)
{
    Py_ssize_t before = object->ob_refcnt;
    bool same = true;
    for (int i = 0; i < 3; i++) {
        Py_INCREF(object);
        Py_IncRef(object);
        same &= object->ob_refcnt == before;
    }
    for (int i = 0; i < 9; i++) {
        Py_DECREF(object);
        Py_DecRef(object);
        same &= object->ob_refcnt == before;
    }
    return same ? 0 : -1;
}

/* `object` is consumed: it stays, immortal. NULL and -1 if an error is set. */
static int test_object(PyObject *object)
{
    PyObject *globals = object ? PyDict_New() : NULL;
    if (!globals)
        return -1;
    int result = -1;
    *count_of(object) = clonal_immortal_count();
    if (PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins()) == 0 &&
        PyDict_SetItemString(globals, "x", object) == 0)
        result = count_survives(globals, object, holding) || count_survives(globals, object, dropping) ||
                 count_survives_c(object);
    Py_DECREF(globals);
    return result ? -1 : 0;
}

/* immortal_selftest() -> None, or why this interpreter cannot have an immortal heap. Leaves a few
 * small objects behind. */
PyObject *clonal_immortal_selftest(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if ((int32_t)clonal_immortal_count() >= 0)
        return PyUnicode_FromString("None is not immortal in this interpreter; image only");
    int bad = test_object(PyFloat_FromDouble(0.1234)) || test_object(PyList_New(3)) ||
              test_object(PyUnicode_FromString("not interned")) || test_object(PyLong_FromLong(1L << 40)) ||
              test_object(Py_BuildValue("(ii)", 1, 2)) || test_object(PyDict_New());
    if (PyErr_Occurred())
        return NULL;
    if (bad)
        return PyUnicode_FromString("this interpreter writes the count of immortal objects; image only");
    Py_RETURN_NONE;
}

#else

static PyObject *unavailable(void)
{
#ifdef Py_GIL_DISABLED
    return PyUnicode_FromString("free-threaded builds count references per thread; image only");
#elif PY_VERSION_HEX < 0x030C0000
    return PyUnicode_FromFormat("CPython %d.%d has no immortal objects (PEP 683); image only",
                                PY_MAJOR_VERSION, PY_MINOR_VERSION);
#else
    return PyUnicode_FromString("immortal objects are known for 64-bit builds only; image only");
#endif
}

PyObject *clonal_immortal_selftest(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return unavailable();
}

#endif
