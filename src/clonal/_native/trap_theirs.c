/* SIGTRAPs that no fault sent, as of kill(2) or a breakpoint: they are the program's, which may have asked
 * for what becomes of them. Its wish is kept here (record/hook.py), for the handler in place is the
 * recording's. */
#define _GNU_SOURCE
#include "native.h"
#include "trap_state.h"

#include <signal.h>

enum { THEIR_DEFAULT, THEIR_NOTHING, THEIR_HANDLER };

static int theirs, passed;

bool trap_has_their_handler(void)
{
    return theirs == THEIR_HANDLER;
}

/* Ends the process as it would have ended: the signal is blocked until the handler returns. */
static void end_of_it(void)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(SIGTRAP, &plain, NULL);
    raise(SIGTRAP);
}

void trap_pass_on(const siginfo_t *info)
{
    bool forced = info->si_code > 0; /* by the kernel, which lets nobody ignore it (kernel/signal.c) */
    if (theirs == THEIR_HANDLER) {
        __atomic_store_n(&passed, 1, __ATOMIC_RELAXED);
        PyErr_SetInterruptEx(clonal_trap.drain_signal);
    } else if (theirs == THEIR_DEFAULT || forced)
        end_of_it();
}

/* trap_theirs(what): what the program wants of SIGTRAP: 0 the default, 1 nothing, 2 a handler of its own. */
static PyObject *trap_theirs(PyObject *module, PyObject *what)
{
    (void)module;
    long number = PyLong_AsLong(what);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    theirs = (int)number;
    Py_RETURN_NONE;
}

/* trap_passed() -> whether one came since the last call that its handler is to be called for. */
static PyObject *trap_passed(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(__atomic_exchange_n(&passed, 0, __ATOMIC_RELAXED));
}

/* ---- what their handlers raise while the recording is at work after a fork ---- */

static PyObject *raised;

static int raise_it(void *unused)
{
    (void)unused;
    PyObject *error = raised;
    raised = NULL;
    if (error)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    return error ? -1 : 0;
}

/* Calls `work`. An exception that it returns is raised in the program, where it forked: one that a fork
 * handler raises is only printed (Modules/posixmodule.c run_at_forkers). In C, for after a call of Python the
 * interpreter would raise it here. */
static PyObject *call_work(PyObject *work, PyObject *unused)
{
    (void)unused;
    PyObject *error = PyObject_CallNoArgs(work);
    if (error && PyExceptionInstance_Check(error) && Py_AddPendingCall(raise_it, NULL) == 0) {
        Py_XSETREF(raised, error);
        Py_RETURN_NONE;
    }
    return error;
}

static PyMethodDef fork_handler = {"work", call_work, METH_NOARGS, NULL};

/* trap_fork_handler(work) -> a function for os.register_at_fork; see call_work(). */
static PyObject *trap_fork_handler(PyObject *module, PyObject *work)
{
    (void)module;
    return PyCFunction_New(&fork_handler, work);
}

PyMethodDef clonal_trap_theirs_methods[] = {
    {"trap_fork_handler", trap_fork_handler, METH_O, NULL},
    {"trap_theirs", trap_theirs, METH_O, NULL},
    {"trap_passed", trap_passed, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
