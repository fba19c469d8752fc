/* vfork + exec through clone3, and the probing of calls that Python has no name for. */
#include "native.h"
#include "sys.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* probe_call(name) -> bool: whether the kernel knows a call, asked with arguments that do nothing.
 * A call that seccomp denies counts as unknown. */
static PyObject *probe_call(PyObject *self, PyObject *arg)
{
    (void)self;
    const char *name = PyUnicode_AsUTF8(arg);
    if (!name)
        return NULL;
    if (strcmp(name, "clone3") == 0)
        return PyBool_FromLong(SYS(SYS_clone3, NULL, 0) == -EINVAL);
    if (strcmp(name, "close_range") == 0)
        return PyBool_FromLong(SYS(SYS_close_range, UINT_MAX, UINT_MAX, 0) == 0);
    return PyErr_Format(PyExc_ValueError, "no probe for %s", name);
}

PyMethodDef clonal_launch_methods[] = {
    {"probe_call", probe_call, METH_O, "probe_call(name): whether the kernel knows clone3 or close_range."},
    {NULL},
};
