/* Loads the eBPF program that sees copy-on-write faults, and reads what it tells. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "event.h"

/* The program, as clang compiled it: setup.py says where. */
__asm__(".section .rodata\n"
        ".balign 8\n"
        "copies_object: .incbin \"" CLONAL_BPF_OBJECT "\"\n"
        "copies_object_end:\n"
        ".balign 8\n"
        ".previous\n");
extern const char copies_object[] __attribute__((visibility("hidden")));
extern const char copies_object_end[] __attribute__((visibility("hidden")));

enum { LINKS = 8, BATCH = 1 << 14 };

/* Bytes that grow. */
struct buffer {
    char *bytes; /* owned */
    size_t length, room;
};

typedef struct {
    PyObject_HEAD struct bpf_object *object; /* owned; NULL: closed */
    struct ring_buffer *ring;                /* owned */
    struct bpf_link *links[LINKS];           /* owned; NULL: none */
    int processes, pythons, most;            /* maps, of the object; events to read yet */
    struct buffer events, frames;
} Program;

static char last_words[256]; /* of libbpf or of the verifier */

static int remember(enum libbpf_print_level level, const char *format, va_list arguments)
{
    if (level == LIBBPF_WARN && !last_words[0])
        vsnprintf(last_words, sizeof last_words, format, arguments);
    last_words[strcspn(last_words, "\n")] = 0;
    return 0;
}

static bool append(struct buffer *to, const void *bytes, size_t length)
{
    if (to->length + length > to->room) {
        size_t room = 2 * (to->room + length);
        char *grown = realloc(to->bytes, room);
        if (!grown)
            return false;
        to->bytes = grown, to->room = room;
    }
    memcpy(to->bytes + to->length, bytes, length);
    to->length += length;
    return true;
}

/* One event: its fixed part to one buffer, its frames to the other. */
static int take(void *context, void *data, size_t size)
{
    Program *self = context;
    const struct event *event = data;
    size_t frames = size > sizeof *event ? event->depth * sizeof(struct frame) : 0;
    if (size < sizeof *event || sizeof *event + frames > size)
        return 0;
    if (!append(&self->events, event, sizeof *event) ||
        !append(&self->frames, (const char *)data + sizeof *event, frames))
        return -ENOMEM;
    return --self->most > 0 ? 0 : -EAGAIN; /* stops here, this event included */
}

static void release(Program *self)
{
    for (int i = 0; i < LINKS; i++) {
        bpf_link__destroy(self->links[i]);
        self->links[i] = NULL;
    }
    ring_buffer__free(self->ring);
    bpf_object__close(self->object);
    self->ring = NULL, self->object = NULL;
    free(self->events.bytes);
    free(self->frames.bytes);
    self->events = self->frames = (struct buffer){0};
}

static PyObject *failed(int error, const char *what)
{
    errno = error < 0 ? -error : error;
    PyObject *text =
        last_words[0] ? PyUnicode_FromFormat("%s: %s", what, last_words) : PyUnicode_FromString(what);
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, text);
    Py_XDECREF(text);
    return NULL;
}

static int open_and_load(Program *self)
{
    self->object = bpf_object__open_mem(copies_object, (size_t)(copies_object_end - copies_object), NULL);
    if (!self->object)
        return -errno;
    int error = bpf_object__load(self->object);
    if (error)
        return error;
    self->processes = bpf_object__find_map_fd_by_name(self->object, "processes");
    self->pythons = bpf_object__find_map_fd_by_name(self->object, "pythons");
    int ring = bpf_object__find_map_fd_by_name(self->object, "ring");
    self->ring = ring_buffer__new(ring, take, self, NULL);
    return self->ring ? 0 : -errno;
}

static int attach(Program *self)
{
    int count = 0;
    struct bpf_program *program;
    bpf_object__for_each_program(program, self->object)
    {
        if (count == LINKS)
            return -E2BIG;
        struct bpf_link *link = bpf_program__attach(program);
        if (!link)
            return -errno;
        self->links[count++] = link;
    }
    return 0;
}

/* Program(): loaded and attached. Raises OSError. */
static PyObject *program_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (!PyArg_ParseTuple(args, "") || kwargs)
        return NULL;
    Program *self = (Program *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    last_words[0] = 0;
    libbpf_set_print(remember);
    const char *what = "loading the eBPF program";
    int error = open_and_load(self);
    if (!error) {
        what = "attaching the eBPF program";
        error = attach(self);
    }
    if (!error)
        return (PyObject *)self;
    Py_DECREF(self);
    return failed(error, what);
}

static void program_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    release((Program *)object);
    type->tp_free(object);
    Py_DECREF(type);
}

static bool is_open(Program *self)
{
    if (!self->object)
        PyErr_SetString(PyExc_ValueError, "this program is closed");
    return self->object != NULL;
}

/* follow(pid, state): by hand; children are followed by the program. */
static PyObject *program_follow(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    struct process process = {0};
    if (!is_open(self) || !PyArg_ParseTuple(args, "II", &process.owner, &process.state))
        return NULL;
    process.image = process.owner;
    int error = bpf_map_update_elem(self->processes, &process.owner, &process, BPF_ANY);
    if (error)
        return failed(error, "following a process");
    Py_RETURN_NONE;
}

/* python(pid, known): bytes of struct python, or None where it is none any more. */
static PyObject *program_python(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    uint32_t pid;
    Py_buffer known;
    if (!is_open(self) || !PyArg_ParseTuple(args, "Iz*", &pid, &known))
        return NULL;
    int error = 0;
    if (!known.buf)
        bpf_map_delete_elem(self->pythons, &pid);
    else if (known.len != sizeof(struct python))
        error = -EINVAL;
    else
        error = bpf_map_update_elem(self->pythons, &pid, known.buf, BPF_ANY);
    PyBuffer_Release(&known);
    if (error)
        return failed(error, "telling of an interpreter");
    Py_RETURN_NONE;
}

/* counts(pid) -> (first touches, copies lost) so far, or None if it is not followed. */
static PyObject *program_counts(PyObject *object, PyObject *argument)
{
    Program *self = (Program *)object;
    uint32_t pid = (uint32_t)PyLong_AsUnsignedLong(argument);
    struct process process;
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    if (bpf_map_lookup_elem(self->processes, &pid, &process))
        Py_RETURN_NONE;
    return Py_BuildValue("(KK)", (unsigned long long)process.fresh, (unsigned long long)process.lost);
}

/* forget(pid): it is followed no longer. */
static PyObject *program_forget(PyObject *object, PyObject *argument)
{
    Program *self = (Program *)object;
    uint32_t pid = (uint32_t)PyLong_AsUnsignedLong(argument);
    if (PyErr_Occurred() || !is_open(self))
        return NULL;
    bpf_map_delete_elem(self->processes, &pid);
    bpf_map_delete_elem(self->pythons, &pid);
    Py_RETURN_NONE;
}

/* read() -> (structs event, structs frame) as bytes: what there is, at most BATCH events. */
static PyObject *program_read(PyObject *object, PyObject *unused)
{
    (void)unused;
    Program *self = (Program *)object;
    if (!is_open(self))
        return NULL;
    self->events.length = self->frames.length = 0;
    self->most = BATCH;
    int found = ring_buffer__consume(self->ring);
    if (found < 0 && found != -EAGAIN)
        return failed(found, "ring_buffer__consume");
    const char *events = self->events.bytes ? self->events.bytes : "",
               *frames = self->frames.bytes ? self->frames.bytes : "";
    return Py_BuildValue("(y#y#)", events, (Py_ssize_t)self->events.length, frames,
                         (Py_ssize_t)self->frames.length);
}

/* fileno(): readable when user space is to read at once. */
static PyObject *program_fileno(PyObject *object, PyObject *unused)
{
    (void)unused;
    Program *self = (Program *)object;
    return is_open(self) ? PyLong_FromLong(ring_buffer__epoll_fd(self->ring)) : NULL;
}

static PyObject *program_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    release((Program *)object);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"follow", program_follow, METH_VARARGS, NULL}, {"python", program_python, METH_VARARGS, NULL},
    {"counts", program_counts, METH_O, NULL},       {"forget", program_forget, METH_O, NULL},
    {"read", program_read, METH_NOARGS, NULL},      {"fileno", program_fileno, METH_NOARGS, NULL},
    {"close", program_close, METH_NOARGS, NULL},    {NULL, NULL, 0, NULL},
};

static PyType_Slot program_slots[] = {
    {Py_tp_new, program_new},
    {Py_tp_dealloc, program_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec program_spec = {
    .name = "clonal._bpf.Program",
    .basicsize = sizeof(Program),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = program_slots,
};

static int exec_module(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&program_spec);
    int result = type ? PyModule_AddObjectRef(module, "Program", type) : -1;
    Py_XDECREF(type);
    if (result < 0 || PyModule_AddIntConstant(module, "EVENT", sizeof(struct event)) < 0)
        return -1;
    if (PyModule_AddIntConstant(module, "PYTHON", sizeof(struct python)) < 0 ||
        PyModule_AddIntConstant(module, "DEPTH", DEPTH) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "OBJECT", sizeof(struct object_event) - sizeof(struct event));
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, exec_module}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "clonal._bpf",
    .m_doc = "The eBPF program of clonal record, and its loader.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__bpf(void)
{
    return PyModuleDef_Init(&definition);
}
