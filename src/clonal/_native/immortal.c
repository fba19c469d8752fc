/* The immortal heap: after it, reading an object writes nothing.
 *
 * From CPython 3.12 (PEP 683) an object whose count holds a certain value is never counted. Giving
 * that value to everything a warm process has loaded is what lets clones read it without copying its
 * pages. The count is its own visited mark, so the walk needs no table of what it has seen.
 */
#define _GNU_SOURCE
#include "heap.h"

#include <sys/uio.h>
#include <unistd.h>

#ifdef CLONAL_HAS_IMMORTALS

PyObject *clonal_interned_strings(void);

/* ---- the walk's stages ---- */

static void mark_interned_strings(struct walk *walk)
{
    PyObject *table = clonal_interned_strings(), *key, *value;
    Py_ssize_t at = 0;
    while (table && PyDict_Next(table, &at, &key, &value))
        clonal_mark(key, walk);
}

static void mark_if(PyObject *object, struct walk *walk)
{
    if (object)
        clonal_mark(object, walk);
}

/* A static type is immortal from the start, so that the walk would stop at it: its methods are roots.
 * The first attribute lookup in any type gives it a version: now, so that no clone writes it. */
static void visit_types(struct walk *walk, PyObject *types)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); i++) {
        PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(types, i);
        if (walk->fill_caches)
            PyUnstable_Type_AssignVersionTag(type);
        if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE))
            clonal_visit_children((PyObject *)type, walk, clonal_mark, walk);
    }
}

/* What lives as long as the interpreter: modules, its dictionaries, the threads' own storage. */
static void mark_roots(struct walk *walk, PyObject *all_types)
{
    visit_types(walk, all_types);
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    mark_if(PyImport_GetModuleDict(), walk);
    mark_if(PyInterpreterState_GetDict(interpreter), walk);
    mark_if(PyEval_GetBuiltins(), walk);
    for (PyThreadState *t = PyInterpreterState_ThreadHead(interpreter); t; t = PyThreadState_Next(t)) {
        mark_if(t->dict, walk);
        mark_if(t->context, walk);
    }
    mark_interned_strings(walk);
    clonal_mark_all(walk);
}

struct again {
    struct walk *walk;
    struct ptr_set dicts; /* walked through in this sweep */
};

/* A dictionary of strings and numbers is unknown to the collector, yet may have got new ones. */
static int mark_news(PyObject *object, void *arg)
{
    struct again *again = arg;
    if (!is_immortal(object))
        return clonal_mark(object, again->walk);
    if (!PyDict_CheckExact(object) || PyObject_GC_IsTracked(object) || set_has(&again->dicts, object))
        return 0;
    if (!clonal_set_add(&again->dicts, object))
        again->walk->failed = true;
    return clonal_visit_children(object, again->walk, clonal_mark, again->walk);
}

static int sweep_immortal(PyObject *object, void *arg)
{
    struct again *again = arg;
    if (is_immortal(object))
        clonal_visit_children(object, again->walk, mark_news, again);
    return 1;
}

/* After an earlier freeze: what immortal objects have been given since. Their own marks are old, so
 * each is visited once, in the collector's order, instead of being searched from the roots. */
static void mark_since_last_freeze(struct walk *walk)
{
    struct again again = {.walk = walk};
    PyUnstable_GC_VisitObjects(sweep_immortal, &again);
    clonal_mark_all(walk);
    clonal_set_free(&again.dicts);
}

/* The collector's objects after marking from the roots. */
struct collect {
    struct walk *walk;
    struct ptr_stack unreached;   /* not marked yet */
    struct ptr_stack kept;        /* of these, those that stay mortal */
    struct ptr_stack finalisable; /* marked, with a finaliser; oldest first, then those C code holds */
};

static int sort_out(PyObject *object, void *arg)
{
    struct collect *collect = arg;
    struct ptr_stack *into = !is_immortal(object)             ? &collect->unreached
                             : has_finaliser(Py_TYPE(object)) ? &collect->finalisable
                                                              : NULL;
    if (into && !stack_push(into, object))
        collect->walk->failed = true;
    return 1;
}

/* The collector's remaining objects are held by C code: marked, unless only running code does. */
static void mark_unreached(struct walk *walk, struct collect *collect)
{
    struct ptr_stack *unreached = &collect->unreached;
    PyUnstable_GC_VisitObjects(sort_out, collect);
    if (walk->failed || clonal_keep_running(walk, unreached) < 0)
        return;
    for (size_t i = 0; i < unreached->n; i++)
        clonal_mark(unreached->items[i], walk);
    clonal_mark_all(walk);
    for (size_t i = 0; i < unreached->n; i++)
        if (has_finaliser(Py_TYPE(unreached->items[i])) && is_immortal(unreached->items[i]))
            walk->failed |= !stack_push(&collect->finalisable, unreached->items[i]);
}

static int call_gc(const char *method)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *done = gc ? PyObject_CallMethod(gc, method, NULL) : NULL;
    Py_XDECREF(gc);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static void collect_kept(struct walk *walk, struct collect *collect)
{
    for (size_t i = 0; i < collect->unreached.n; i++) {
        PyObject *object = collect->unreached.items[i];
        if (!is_immortal(object) && PyObject_GC_IsTracked(object))
            walk->failed |= !stack_push(&collect->kept, object);
    }
}

/* Beyond this many the collector of each clone would copy more by visiting the objects kept back than it
 * could ever free; they stay frozen with the others until the process ends. */
enum { MANY_KEPT = 50000 };

/* gc.freeze(), and the objects kept back given to the collector again: they can still become garbage,
 * and at exit they are finalised as ever. */
static int freeze_collector(struct collect *collect)
{
    if (call_gc("freeze") < 0)
        return -1;
    for (size_t i = 0; collect->kept.n <= MANY_KEPT && i < collect->kept.n; i++) {
        PyObject_GC_UnTrack(collect->kept.items[i]);
        PyObject_GC_Track(collect->kept.items[i]);
    }
    return 0;
}

/* ---- from and to Python ---- */

static int fill_set(struct ptr_set *set, PyObject *objects)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(objects); i++)
        if (!clonal_set_add(set, PyTuple_GET_ITEM(objects, i))) {
            PyErr_NoMemory();
            return -1;
        }
    return 0;
}

/* A list of immortal objects, unknown to the collector: it leads to nothing that could die. */
static PyObject *list_of(const struct ptr_stack *stack)
{
    PyObject *list = PyList_New((Py_ssize_t)stack->n);
    if (!list)
        return NULL;
    PyObject_GC_UnTrack(list);
    for (size_t i = 0; i < stack->n; i++)
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(stack->items[i]));
    return list;
}

/* Those of the kept objects that have a finaliser, as an ordinary list. */
static PyObject *kept_finalisable(const struct ptr_stack *kept)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < kept->n; i++)
        if (has_finaliser(Py_TYPE(kept->items[i])) && PyList_Append(list, kept->items[i]) < 0)
            Py_CLEAR(list);
    return list;
}

static PyObject *result_of(const struct walk *walk, const struct collect *collect)
{
    PyObject *known = list_of(&collect->finalisable), *unknown = list_of(&walk->finalisable);
    PyObject *kept = kept_finalisable(&collect->kept), *hidden = NULL, *result = NULL;
    if (known && unknown && kept)
        hidden = PyBool_FromLong(collect->kept.n > MANY_KEPT);
    if (hidden)
        result =
            Py_BuildValue("{s:n,s:n,s:n,s:n,s:O,s:O,s:O,s:O}", "marked", (Py_ssize_t)walk->marked, "hashes",
                          (Py_ssize_t)walk->hashes, "kept_running", (Py_ssize_t)walk->kept_running,
                          "kept_excluded", (Py_ssize_t)walk->kept_excluded, "finalisable", known,
                          "finalisable_untracked", unknown, "kept_finalisable", kept, "kept_hidden", hidden);
    Py_XDECREF(known);
    Py_XDECREF(unknown);
    Py_XDECREF(kept);
    Py_XDECREF(hidden);
    return result;
}

static bool frozen_before; /* some objects that are immortal now have been given others since */

/* immortalise(all_types, exclude_objects, exclude_types, hashes, ndarray) -> dict. Marks, computes
 * hashes and calls gc.freeze(). Runs no Python code in between. Caller: collected, self-test passed. */
static PyObject *immortalise(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *all_types, *objects, *types, *ndarray, *result = NULL;
    int hashes;
    if (!PyArg_ParseTuple(args, "O!O!O!pO", &PyTuple_Type, &all_types, &PyTuple_Type, &objects, &PyTuple_Type,
                          &types, &hashes, &ndarray))
        return NULL;
    struct walk walk = {.count = clonal_immortal_count(), .fill_caches = hashes};
    struct collect collect = {.walk = &walk};
    walk.ndarray = PyType_Check(ndarray) ? (PyTypeObject *)ndarray : NULL;
    if (fill_set(&walk.kept, objects) < 0 || fill_set(&walk.types, types) < 0)
        goto out;
    if (call_gc("unfreeze") < 0) /* the sweeps below see what an earlier freeze took away */
        goto out;
    if (frozen_before)
        mark_since_last_freeze(&walk);
    mark_roots(&walk, all_types);
    mark_unreached(&walk, &collect);
    frozen_before = true;
    collect_kept(&walk, &collect);
    if (walk.failed)
        PyErr_NoMemory();
    else if (freeze_collector(&collect) == 0)
        result = result_of(&walk, &collect);
out:
    clonal_set_free(&walk.kept);
    clonal_set_free(&walk.types);
    clonal_stack_free(&walk.todo);
    clonal_stack_free(&walk.running);
    clonal_stack_free(&walk.finalisable);
    clonal_stack_free(&collect.unreached);
    clonal_stack_free(&collect.kept);
    clonal_stack_free(&collect.finalisable);
    return result;
}

/* is_immortal(object) -> bool */
static PyObject *is_immortal_object(PyObject *module, PyObject *object)
{
    (void)module;
    return PyBool_FromLong(is_immortal(object));
}

/* True if an object of this type still lives at the address; both may be stale. A freed block has a pointer
 * where the count was, so the whole word must look like a count. */
static bool is_object_at(void *address, void *type)
{
    struct {
        uint64_t count;
        void *type;
    } head;
    struct iovec here = {&head, sizeof head}, there = {address, sizeof head};
    if ((uintptr_t)address % 8 || process_vm_readv(getpid(), &here, 1, &there, 1, 0) != sizeof head)
        return false;
    return head.type == type && head.count > 0 && head.count < UINT64_C(1) << 31;
}

/* immortalise_at([(address, type's address)]) -> how many: objects that a trial clone was seen to count
 * references to, which the walk could not reach. */
static PyObject *immortalise_at(PyObject *module, PyObject *pairs)
{
    (void)module;
    PyObject *items = PySequence_Fast(pairs, "expected a sequence of pairs");
    if (!items)
        return NULL;
    long marked = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items); i++) {
        unsigned long long address, type;
        if (!PyArg_ParseTuple(PySequence_Fast_GET_ITEM(items, i), "KK", &address, &type))
            break;
        if (is_object_at((void *)address, (void *)type)) {
            *count_of((PyObject *)address) = clonal_immortal_count();
            marked++;
        }
    }
    Py_DECREF(items);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(marked);
}

#else

static PyObject *immortalise(PyObject *module, PyObject *args)
{
    (void)args;
    PyObject *why = clonal_immortal_selftest(module, NULL);
    PyErr_SetObject(PyExc_RuntimeError, why);
    Py_XDECREF(why);
    return NULL;
}

static PyObject *is_immortal_object(PyObject *module, PyObject *object)
{
    (void)module;
    (void)object;
    Py_RETURN_FALSE;
}

static PyObject *immortalise_at(PyObject *module, PyObject *pairs)
{
    (void)module;
    (void)pairs;
    return PyLong_FromLong(0);
}

#endif

/* ndarray_layout_known(ndarray, probe, sentinel) -> bool */
static PyObject *ndarray_layout_known(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *ndarray, *probe, *sentinel;
    if (!PyArg_ParseTuple(args, "O!OO", &PyType_Type, &ndarray, &probe, &sentinel))
        return NULL;
#ifdef CLONAL_HAS_IMMORTALS
    return PyBool_FromLong(clonal_ndarray_layout_known((PyTypeObject *)ndarray, probe, sentinel));
#else
    Py_RETURN_FALSE;
#endif
}

PyMethodDef clonal_immortal_methods[] = {
    {"immortalise", immortalise, METH_VARARGS, NULL},
    {"immortal_selftest", clonal_immortal_selftest, METH_NOARGS, NULL},
    {"immortalise_at", immortalise_at, METH_O, NULL},
    {"is_immortal", is_immortal_object, METH_O, NULL},
    {"ndarray_layout_known", ndarray_layout_known, METH_VARARGS, NULL},
    {"finalisable_objects", clonal_finalisable_objects, METH_NOARGS, NULL},
    {"finalise", clonal_finalise, METH_O, NULL},
    {"has_finaliser", clonal_has_finaliser, METH_O, NULL},
    {"atexit_is_last", clonal_atexit_is_last, METH_O, NULL},
    {"atexit_last", clonal_atexit_last, METH_O, NULL},
    {NULL},
};
