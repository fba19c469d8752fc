/* Reaching every object: through tp_traverse, and past what tp_traverse leaves out.
 *
 * The collector's own visit skips what can never be part of a cycle: code objects' constants,
 * keys of dictionaries, the dictionaries of static types, elements of object arrays. Reading those writes
 * counts all the same.
 */
#include "heap.h"

static size_t grown(size_t bytes)
{
    return bytes ? bytes * 2 : (size_t)1 << 16;
}

/* More room; the kernel moves page tables, not the entries. False if there is no memory. */
bool clonal_stack_grow(struct ptr_stack *stack)
{
    size_t old = stack->cap * sizeof *stack->items, size = grown(old);
    void *at = old ? mremap(stack->items, old, size, MREMAP_MAYMOVE)
                   : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return false;
    stack->items = at;
    stack->cap = size / sizeof *stack->items;
    return true;
}

void clonal_stack_free(struct ptr_stack *stack)
{
    if (stack->cap)
        munmap(stack->items, stack->cap * sizeof *stack->items);
    *stack = (struct ptr_stack){0};
}

static bool set_grow(struct ptr_set *set)
{
    size_t old = set->cap * sizeof *set->slots, size = grown(old);
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return false;
    struct ptr_set bigger = {.slots = at, .n = set->n, .cap = size / sizeof *set->slots};
    for (size_t i = 0; i < set->cap; i++)
        if (set->slots[i])
            bigger.slots[set_slot(&bigger, set->slots[i])] = set->slots[i];
    if (old)
        munmap(set->slots, old);
    *set = bigger;
    return true;
}

bool clonal_set_add(struct ptr_set *set, const void *key)
{
    if (set->n * 2 >= set->cap && !set_grow(set))
        return false;
    size_t i = set_slot(set, (uintptr_t)key);
    if (!set->slots[i]) {
        set->slots[i] = (uintptr_t)key;
        set->n++;
    }
    return true;
}

void clonal_set_free(struct ptr_set *set)
{
    if (set->cap)
        munmap(set->slots, set->cap * sizeof *set->slots);
    *set = (struct ptr_set){0};
}

#ifdef CLONAL_HAS_IMMORTALS

#define VISIT(child)                                                                                         \
    do {                                                                                                     \
        PyObject *child_ = (PyObject *)(child);                                                              \
        int result_ = child_ ? visit(child_, arg) : 0;                                                       \
        if (result_)                                                                                         \
            return result_;                                                                                  \
    } while (0)

/* Code objects are unknown to the collector: their constants are reached here. */
static int visit_code(PyCodeObject *code, visitproc visit, void *arg)
{
    VISIT(code->co_consts);
    VISIT(code->co_names);
    VISIT(code->co_exceptiontable);
    VISIT(code->co_localsplusnames);
    VISIT(code->co_localspluskinds);
    VISIT(code->co_filename);
    VISIT(code->co_name);
    VISIT(code->co_qualname);
    VISIT(code->co_linetable);
    return 0;
}

/* A static type must not be traversed (CPython aborts), yet owns a dictionary full of methods. */
static int visit_static_type(PyTypeObject *type, visitproc visit, void *arg)
{
    PyObject *dict = PyType_GetDict(type); /* owned; the type holds it too */
    Py_XDECREF(dict);
    VISIT(dict);
    VISIT(type->tp_mro);
    VISIT(type->tp_bases);
    VISIT(type->tp_base);
    return 0;
}

/* The head of numpy's PyArrayObject, the same in numpy 1 and 2; checked against a live array first. */
struct array_head {
    PyObject_HEAD char *data;
    int nd;
    Py_ssize_t *dims, *strides;
    PyObject *base, *descr;
    int flags;
};

struct descr_head {
    PyObject_HEAD PyTypeObject *typeobj;
    char kind, type, byteorder, flags;
    int type_num;
};

enum { NPY_OBJECT = 17, CONTIGUOUS = 1 | 2, OWNDATA = 4 };

static Py_ssize_t object_elements(const struct array_head *array)
{
    if (((struct descr_head *)array->descr)->type_num != NPY_OBJECT)
        return 0;
    if (!(array->flags & CONTIGUOUS) || !(array->flags & OWNDATA))
        return 0;
    Py_ssize_t n = 1;
    for (int i = 0; i < array->nd; i++)
        n *= array->dims[i];
    return n;
}

/* Arrays have no tp_traverse at all. Views reach the elements through their base. */
static int visit_array(const struct array_head *array, visitproc visit, void *arg)
{
    VISIT(array->base);
    VISIT(array->descr);
    for (Py_ssize_t i = 0, n = object_elements(array); i < n; i++)
        VISIT(((PyObject **)array->data)[i]);
    return 0;
}

/* True if `probe`, an object array of 2 × 3 times `sentinel`, reads as struct array_head says. */
bool clonal_ndarray_layout_known(PyTypeObject *ndarray, PyObject *probe, PyObject *sentinel)
{
    struct array_head *array = (struct array_head *)probe;
    if (Py_TYPE(probe) != ndarray || ndarray->tp_basicsize < (Py_ssize_t)sizeof *array || array->nd != 2)
        return false;
    if (array->dims[0] != 2 || array->dims[1] != 3 || array->strides[1] != sizeof(PyObject *))
        return false;
    if (array->base || object_elements(array) != 6)
        return false;
    return ((PyObject **)array->data)[0] == sentinel && ((PyObject **)array->data)[5] == sentinel;
}

/* dict_traverse leaves out the keys where all are strings: those end no cycle. */
static int visit_dict(PyObject *dict, visitproc visit, void *arg)
{
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(dict, &at, &key, &value);) {
        VISIT(key);
        VISIT(value);
    }
    return 0;
}

/* Call `visit` for what `object` refers to; stops at the first non-zero result and returns it. */
int clonal_visit_children(PyObject *object, struct walk *walk, visitproc visit, void *arg)
{
    PyTypeObject *type = Py_TYPE(object);
    if (PyType_Check(object) && !PyType_HasFeature((PyTypeObject *)object, Py_TPFLAGS_HEAPTYPE))
        return visit_static_type((PyTypeObject *)object, visit, arg);
    if (PyCode_Check(object))
        return visit_code((PyCodeObject *)object, visit, arg);
    if (PyDict_Check(object)) {
        int result = visit_dict(object, visit, arg);
        if (result || PyDict_CheckExact(object))
            return result;
    }
    if (walk->ndarray && PyType_IsSubtype(type, walk->ndarray)) {
        int result = visit_array((struct array_head *)object, visit, arg);
        if (result)
            return result;
    }
    return type->tp_traverse ? type->tp_traverse(object, visit, arg) : 0;
}

/* Only exact strings of moderate size: hashing runs no Python code, and long texts are not keys. */
enum { LONGEST_HASHED = 1 << 16 };

_Py_COMP_DIAG_PUSH _Py_COMP_DIAG_IGNORE_DEPR_DECLS static void compute_hash(PyObject *object,
                                                                            struct walk *walk)
{
    bool missing = false;
    if (PyUnicode_CheckExact(object))
        missing = ((PyASCIIObject *)object)->hash == -1 && PyUnicode_GET_LENGTH(object) <= LONGEST_HASHED;
    else if (PyBytes_CheckExact(object))
        missing = ((PyBytesObject *)object)->ob_shash == -1 && PyBytes_GET_SIZE(object) <= LONGEST_HASHED;
    else if (PyFrozenSet_CheckExact(object)) /* made of its elements' hashes, which the set stores */
        missing = ((PySetObject *)object)->hash == -1;
    if (missing && PyObject_Hash(object) != -1)
        walk->hashes++;
}
_Py_COMP_DIAG_POP

    static bool
    is_generator(PyTypeObject *type)
{
    return type == &PyGen_Type || type == &PyCoro_Type || type == &PyAsyncGen_Type;
}

static bool is_executing(PyObject *generator)
{
#if PY_VERSION_HEX < 0x030E0000
    enum { EXECUTING = 0 }; /* pycore_frame.h: FRAME_EXECUTING */
    return ((PyGenObject *)generator)->gi_frame_state == EXECUTING;
#else
    (void)generator; /* the state moved to an internal header: its contents count as reached */
    return false;
#endif
}

/* Frames of running functions die with them and would keep their variables alive for ever; a running
 * generator is a frame too. What else refers to them may be marked, they may not. */
static bool is_running(PyObject *object, struct walk *walk)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyFrame_Type)
        return true;
    if (!is_generator(type) || !is_executing(object))
        return false;
    if (!set_has(&walk->kept, object)) {
        bool kept = clonal_set_add(&walk->kept, object) && stack_push(&walk->running, object);
        walk->failed |= !kept;
    }
    return true;
}

bool clonal_is_excluded(PyObject *object, const struct walk *walk)
{
    return set_has(&walk->kept, object) || set_has(&walk->types, Py_TYPE(object));
}

/* Mark one object and its type, and remember to walk through it. */
static void mark_now(PyObject *object, struct walk *walk)
{
    if (is_immortal(object) || is_running(object, walk) || clonal_is_excluded(object, walk))
        return;
    *count_of(object) = walk->count;
    walk->marked++;
    PyTypeObject *type = Py_TYPE(object);
    if (walk->fill_caches)
        compute_hash(object, walk);
    if (has_finaliser(type) && !PyObject_IS_GC(object))
        walk->failed |= !stack_push(&walk->finalisable, object);
    bool inner = type->tp_traverse || type == &PyCode_Type || (walk->ndarray && type == walk->ndarray);
    if (inner)
        walk->failed |= !stack_push(&walk->todo, object);
    mark_now((PyObject *)type, walk);
}

/* Mark an object soon. Nearly every object is a cache miss; asked for a few objects ahead, its memory
 * has arrived when its turn comes. Always 0: the walk goes on. */
int clonal_mark(PyObject *object, void *arg)
{
    struct walk *walk = arg;
    __builtin_prefetch(object, 1);
    PyObject **place = &walk->soon[walk->turn++ % AHEAD], *due = *place;
    *place = object;
    if (due)
        mark_now(due, walk);
    return 0;
}

/* Mark all that is due, and walk through everything marked and not yet walked through. */
void clonal_mark_all(struct walk *walk)
{
    do {
        while (walk->todo.n) {
            PyObject *object = walk->todo.items[--walk->todo.n];
            clonal_visit_children(object, walk, clonal_mark, walk);
        }
        for (size_t i = 0; i < AHEAD; i++) {
            PyObject *due = walk->soon[i];
            walk->soon[i] = NULL;
            if (due)
                mark_now(due, walk);
        }
    } while (walk->todo.n);
}

#endif
