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

PyMethodDef clonal_trap_theirs_methods[] = {
    {"trap_theirs", trap_theirs, METH_O, NULL},
    {"trap_passed", trap_passed, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
