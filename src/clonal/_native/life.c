/* A clone's life from its birth to its end where nothing is unusual: no line of Python but the user's own.
 *
 * Every Python function that runs writes to some ten pages (the counters in its code, its frame, caches,
 * allocator pools), each of which is copied first; together they cost as much as the fork. So the usual
 * request is unpickled, called and answered from here. What is unusual goes on in worker.py, from where it
 * shows to be so: options, payloads in memory files, exceptions, modules that the call imported, threads or
 * exit functions left at the end.
 */
#define _GNU_SOURCE
#include "heap.h"
#include "loop.h"
#include "wire.h"

#include <errno.h>
#include <unistd.h>

enum { INLINE_MOST = 32 * 1024, OUT_OF_BAND = 16 * 1024, REHEARSALS = 20 }; /* the first two as in wire.py */
enum { KIND_RESULT = 'R' };

/* What lives() uses, collected while the template is warm; references held for ever. */
static struct {
    PyObject *begin;         /* tuple of callables: seeds, in_clone hooks */
    PyObject *last;          /* the same: before the answer is sent */
    PyObject *loads, *dumps; /* of pickle */
    PyObject *odd_request, *odd_result, *answer, *failed, *end; /* of worker.py; none returns */
    PyObject *modules;                                          /* sys.modules */
    PyObject *clear_exits, *count_exits;                        /* of atexit */
    PyObject *real_after_fork;                                  /* of threading */
    PyObject *threads;                                          /* threading._active or None */
    PyObject *finalizers;                                       /* weakref.finalize._registry or None */
    PyObject *handlers;                                         /* logging._handlerList or None */
    int only_flushes; /* nothing in the template was left for its clones to flush */
    PyObject *flush, *shared, *dump_names, *spot, *five, *rehearsed;
} life;

/* The clone's socket, for the fork handler; -1 in every other process. */
static int open_wire = -1;

/* The template whose children need not do what threading does after a fork; 0: none. */
static pid_t single_threaded;

struct place {
    int fd, slot;
    struct board *board;
    Py_ssize_t modules;
    int64_t born;
};

/* Goes on in Python; never returns. `first` is taken over. */
static _Noreturn void take_over(PyObject *handler, PyObject *first, PyObject *second,
                                const struct place *place)
{
    PyObject *done = second ? PyObject_CallFunction(handler, "OOiKinL", first, second, place->fd,
                                                    (unsigned long long)(uintptr_t)place->board, place->slot,
                                                    place->modules, (long long)place->born)
                            : PyObject_CallFunction(handler, "OiKinL", first, place->fd,
                                                    (unsigned long long)(uintptr_t)place->board, place->slot,
                                                    place->modules, (long long)place->born);
    if (done == NULL)
        PyErr_Print();
    _exit(1);
}

/* The exception that is set, with its traceback. */
static PyObject *raised(void)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace != NULL)
        PyException_SetTraceback(value, trace);
    return value;
}

static _Noreturn void fail(const struct place *place)
{
    take_over(life.failed, raised(), NULL, place);
}

/* Seeds and hooks. What they raise is the clone's result: NULL or the exception. */
static PyObject *call_each(PyObject *hooks)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(hooks); i++) {
        PyObject *done = PyObject_CallNoArgs(PyTuple_GET_ITEM(hooks, i));
        if (done == NULL)
            return raised();
        Py_DECREF(done);
    }
    return NULL;
}

/* The buffer callback of pickle: small ones go into the pickle, large ones are for wire.py to send apart. */
static PyObject *spot_buffer(PyObject *self, PyObject *buffer)
{
    Py_buffer view;
    (void)self;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_FULL_RO) < 0)
        return NULL;
    Py_ssize_t size = view.len;
    PyBuffer_Release(&view);
    if (size < OUT_OF_BAND)
        Py_RETURN_TRUE;
    PyErr_SetString(PyExc_BufferError, "large");
    return NULL;
}

/* pickle.dumps(value, protocol=5, buffer_callback=...); NULL without an exception where that is no matter for
 * us: large buffers, shared arrays, what only cloudpickle can do. */
static PyObject *dump(PyObject *value, const struct place *place)
{
    PyObject *arguments[3] = {value, life.five, life.spot};
    if (PyDict_GetItemWithError(life.modules, life.shared) != NULL || PyErr_Occurred()) {
        PyErr_Clear();
        return NULL;
    }
    PyObject *data = PyObject_Vectorcall(life.dumps, arguments, 1, life.dump_names);
    if (data == NULL && !PyErr_ExceptionMatches(PyExc_Exception) && place != NULL)
        fail(place);
    PyErr_Clear();
    return data;
}

static int flush_streams(void)
{
    static const char *const names[] = {"stdout", "stderr"};
    for (int i = 0; i < 2; i++) {
        PyObject *stream = PySys_GetObject(names[i]);
        if (stream == NULL || stream == Py_None)
            continue;
        Py_INCREF(stream);
        PyObject *done = PyObject_CallMethodNoArgs(stream, life.flush);
        Py_DECREF(stream);
        Py_XDECREF(done);
        if (done == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError) &&
            !PyErr_ExceptionMatches(PyExc_OSError) && !PyErr_ExceptionMatches(PyExc_ValueError))
            return -1;
        PyErr_Clear();
    }
    return 0;
}

/* Sends the result. Nobody may wait for it any more: then there is nothing to be said. */
static void deliver(PyObject *data, const struct place *place)
{
    struct {
        struct message head;
        int32_t pid;
        int64_t born;
    } __attribute__((packed)) reply = {
        .head = {.kind = KIND_RESULT, .ns = now_ns_by_call()}, .pid = getpid(), .born = place->born};
    Py_buffer parts[2] = {{.buf = &reply, .len = sizeof reply},
                          {.buf = PyBytes_AS_STRING(data), .len = PyBytes_GET_SIZE(data)}};
    __atomic_store_n(&place->board->state[place->slot], CLONE_DELIVERED, __ATOMIC_RELEASE);
    if (wire_write(place->fd, parts, 2, NULL) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_ConnectionError))
            fail(place);
        PyErr_Clear();
    }
}

/* Waits for work in a standby clone, having gone through the motions once. Its socket. */
static int stand_by(int fd)
{
    Py_buffer parts[2] = {{.buf = "r", .len = 1}, {.buf = "", .len = 0}};
    rehearse_life();
    if (wire_write(fd, parts, 2, NULL) < 0)
        _exit(0);
    PyObject *message = wire_read(fd);
    if (message == NULL || PyTuple_GET_SIZE(PyTuple_GET_ITEM(message, 1)) == 0)
        _exit(0);
    close(fd);
    return (int)PyLong_AsLong(PyTuple_GET_ITEM(PyTuple_GET_ITEM(message, 1), 0));
}

/* The request, unpickled, as (fn, args, kwargs); what is unusual about it goes on in Python. */
static PyObject *read_request(const struct place *place)
{
    PyObject *received = wire_read(place->fd);
    if (received == NULL)
        fail(place);
    PyObject *bytes = PyTuple_GET_ITEM(received, 0);
    struct message head;
    Py_ssize_t size = PyBytes_GET_SIZE(bytes) - (Py_ssize_t)sizeof head;
    if (size < 0)
        _exit(0); /* the client was gone before we began */
    memcpy(&head, PyBytes_AS_STRING(bytes), sizeof head);
    if (head.flags || head.value)
        take_over(life.odd_request, bytes, PyTuple_GET_ITEM(received, 1), place);
    PyObject *body = PyMemoryView_FromMemory(PyBytes_AS_STRING(bytes) + sizeof head, size, PyBUF_READ);
    PyObject *call = body == NULL ? NULL : PyObject_CallOneArg(life.loads, body);
    if (call == NULL || !PyTuple_Check(call) || PyTuple_GET_SIZE(call) != 3)
        fail(place);
    return call;
}

static int has_finalisable(void)
{
    PyObject *found = clonal_finalisable_objects(NULL, NULL);
    int any = found == NULL || PyList_GET_SIZE(found) > 0;
    Py_XDECREF(found);
    return any;
}

/* Whether nothing is left to do at the end but what the template and every clone share. */
static int ends_quietly(Py_ssize_t finalizers)
{
    if (!life.only_flushes || (life.threads != Py_None && PyDict_Size(life.threads) != 1) ||
        (life.handlers != Py_None && PyList_Size(life.handlers) > 1) ||
        (life.finalizers != Py_None && (finalizers || PyDict_Size(life.finalizers))))
        return 0;
    PyObject *count = PyObject_CallNoArgs(life.count_exits);
    long exits = count == NULL ? 1 : PyLong_AsLong(count);
    PyErr_Clear();
    return exits == 0 && !has_finalisable();
}

_Noreturn void live(const struct birth *birth, struct board *board)
{
    struct place place = {.fd = birth->wire, .slot = birth->slot, .board = board, .born = now_ns_by_call()};
    PyOS_AfterFork_Child();
    open_wire = place.fd;
    Py_XDECREF(PyObject_CallNoArgs(life.clear_exits));
    SYS(SYS_rt_sigprocmask, SIG_SETMASK, &birth->mask, NULL, sizeof birth->mask);
    PyObject *error = call_each(life.begin);
    if (birth->standby) {
        place.fd = open_wire = stand_by(place.fd);
        place.born = now_ns_by_call();
    }
    Py_ssize_t finalizers = life.finalizers == Py_None ? 0 : PyDict_Size(life.finalizers);
    place.modules = PyDict_Size(life.modules);
    PyObject *call = read_request(&place);
    if (error != NULL)
        take_over(life.failed, error, NULL, &place);
    PyObject *value =
        PyObject_Call(PyTuple_GET_ITEM(call, 0), PyTuple_GET_ITEM(call, 1), PyTuple_GET_ITEM(call, 2));
    if (value == NULL)
        fail(&place);
    PyObject *data = dump(value, &place);
    if (data == NULL)
        take_over(life.odd_result, value, NULL, &place);
    if (flush_streams() < 0) /* what the clone printed is out before its result is */
        fail(&place);
    if (PyDict_Size(life.modules) > place.modules || PyBytes_GET_SIZE(data) > INLINE_MOST)
        take_over(life.answer, data, NULL, &place);
    if ((error = call_each(life.last)) != NULL)
        take_over(life.failed, error, NULL, &place);
    deliver(data, &place);
    if (birth->lesson)
        learn(board);
    if (!ends_quietly(finalizers)) {
        PyObject *done = PyObject_CallFunction(life.end, "i", 0);
        Py_XDECREF(done);
    }
    _exit(0);
}

void rehearse_life(void)
{
    PyObject *call = PyObject_CallOneArg(life.loads, life.rehearsed);
    PyObject *value = call == NULL ? NULL
                                   : PyObject_Call(PyTuple_GET_ITEM(call, 0), PyTuple_GET_ITEM(call, 1),
                                                   PyTuple_GET_ITEM(call, 2));
    PyObject *data = value == NULL ? NULL : dump(value, NULL);
    flush_streams();
    ends_quietly(0);
    Py_XDECREF(call);
    Py_XDECREF(value);
    Py_XDECREF(data);
    PyErr_Clear();
}

static PyMethodDef spot = {"spot_buffer", spot_buffer, METH_O, NULL};

static PyObject *prepare_life(PyObject *self, PyObject *args)
{
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!OO(OOOOO)O!(OO)OOOO", &PyTuple_Type, &life.begin, &PyTuple_Type,
                          &life.last, &life.loads, &life.dumps, &life.odd_request, &life.odd_result,
                          &life.answer, &life.failed, &life.end, &PyDict_Type, &life.modules,
                          &life.clear_exits, &life.count_exits, &life.threads, &life.finalizers,
                          &life.handlers, &life.rehearsed))
        return NULL;
    Py_INCREF(args); /* holds all of them */
    life.flush = PyUnicode_InternFromString("flush");
    life.shared = PyUnicode_InternFromString("clonal.clone.shared");
    life.dump_names = Py_BuildValue("(ss)", "protocol", "buffer_callback");
    life.five = PyLong_FromLong(5);
    life.spot = PyCFunction_New(&spot, NULL);
    if (!life.flush || !life.shared || !life.dump_names || !life.five || !life.spot)
        return NULL;
    for (int i = 0; i < REHEARSALS; i++)
        rehearse_life();
    Py_RETURN_NONE;
}

/* Fork handler: a process that a clone forks must not hold the clone's socket, for whose end a client waits.
 */
static PyObject *drop_wire(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (open_wire >= 0)
        close(open_wire);
    open_wire = -1;
    Py_RETURN_NONE;
}

/* Fork handler, in the place of threading's, which forgets the threads that the fork left behind and renews
 * locks: 60 pages touched. In a clone of a template with one thread there is nothing to do. */
static PyObject *after_fork(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    if (single_threaded && (pid_t)sys6(SYS_getppid, 0, 0, 0, 0, 0, 0) == single_threaded)
        Py_RETURN_NONE;
    return PyObject_CallNoArgs(life.real_after_fork);
}

static PyMethodDef after_fork_method = {"after_fork", after_fork, METH_NOARGS, NULL};

static PyObject *instead_of(PyObject *self, PyObject *real)
{
    (void)self;
    Py_INCREF(real);
    Py_XSETREF(life.real_after_fork, real);
    return PyCFunction_New(&after_fork_method, NULL);
}

void expect_clones(int single, int only_flushes)
{
    single_threaded = single ? getpid() : 0;
    life.only_flushes = only_flushes;
}

PyMethodDef clonal_life_methods[] = {
    {"prepare_life", prepare_life, METH_VARARGS,
     "prepare_life(begin, last, loads, dumps, (odd_request, odd_result, answer, failed, end), modules,\n"
     "(clear_exits, count_exits), threads, finalizers, handlers, call): what clones will use; does on "
     "nothing "
     "what\neach will do."},
    {"drop_wire", drop_wire, METH_NOARGS, "drop_wire(): fork handler of a clone's children."},
    {"instead_of", instead_of, METH_O, "instead_of(handler): the fork handler to put in threading's place."},
    {NULL},
};
