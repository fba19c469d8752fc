/* The immortal heap: the walk's own stack and set, and what its files offer each other.
 *
 * While the heap is walked nothing may be allocated through Python (a new object could land in the
 * heap that is being walked, a collection could start), so both structures live in mappings of their
 * own. Running out of memory is remembered in `failed` and reported when the walk is over: an object
 * marked but not walked through is merely less shared.
 */
#ifndef CLONAL_HEAP_H
#define CLONAL_HEAP_H

#include "native.h"

#include <stdbool.h>
#include <sys/mman.h>

#if PY_VERSION_HEX >= 0x030C0000 && SIZEOF_VOID_P == 8 && !defined(Py_GIL_DISABLED)
#define CLONAL_HAS_IMMORTALS 1
#endif

/* A growing array of borrowed references in a mapping of its own. */
struct ptr_stack {
    PyObject **items; /* owned */
    size_t n, cap;
};

/* Open addressing over borrowed references; 0 is the empty slot. */
struct ptr_set {
    uintptr_t *slots; /* owned */
    size_t n, cap;    /* cap is a power of two, or 0 */
};

bool clonal_stack_grow(struct ptr_stack *stack);
void clonal_stack_free(struct ptr_stack *stack);
bool clonal_set_add(struct ptr_set *set, const void *key); /* false: no memory; already there is fine */
void clonal_set_free(struct ptr_set *set);

static inline bool stack_push(struct ptr_stack *stack, PyObject *object)
{
    if (stack->n == stack->cap && !clonal_stack_grow(stack))
        return false;
    stack->items[stack->n++] = object;
    return true;
}

static inline size_t set_slot(const struct ptr_set *set, uintptr_t key)
{
    size_t mask = set->cap - 1;
    size_t i = (size_t)((key >> 4) * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (set->slots[i] && set->slots[i] != key)
        i = (i + 1) & mask;
    return i;
}

static inline bool set_has(const struct ptr_set *set, const void *key)
{
    return set->n && set->slots[set_slot(set, (uintptr_t)key)] != 0;
}

/* The low half of the count: the half that CPython tests, and the only one we write. From 3.14 the
 * high half holds flags that differ from object to object. */
static inline uint32_t *count_of(PyObject *object)
{
    return (uint32_t *)&object->ob_refcnt;
}

static inline bool is_immortal(PyObject *object)
{
    return (int32_t)*count_of(object) < 0;
}

enum { AHEAD = 16 }; /* objects whose memory is on its way from RAM; a power of two */

/* One walk over the heap. Counters are its result. */
struct walk {
    struct ptr_stack todo;        /* marked, children not visited yet */
    struct ptr_stack finalisable; /* marked, with a finaliser, unknown to the collector */
    struct ptr_stack running;     /* generators that are executing: kept back, scanned for references */
    struct ptr_set kept;          /* never to be marked in this walk */
    struct ptr_set types;         /* excluded types with their subclasses */
    PyObject *soon[AHEAD];        /* to be marked, oldest at `turn` */
    size_t turn;
    PyTypeObject *ndarray; /* borrowed, NULL if numpy is not loaded or looks unfamiliar */
    uint32_t count;        /* what marks an object as immortal */
    size_t marked, hashes, kept_running, kept_excluded;
    bool fill_caches, failed;
};

/* selftest.c */
uint32_t clonal_immortal_count(void);
PyObject *clonal_immortal_selftest(PyObject *module, PyObject *unused);

/* walk.c: children of any object, marking. */
int clonal_visit_children(PyObject *object, struct walk *walk, visitproc visit, void *arg);
int clonal_mark(PyObject *object, void *walk);
void clonal_mark_all(struct walk *walk);
bool clonal_is_excluded(PyObject *object, const struct walk *walk);
bool clonal_ndarray_layout_known(PyTypeObject *ndarray, PyObject *probe, PyObject *sentinel);

/* running.c: what only running code holds goes into walk->kept. */
int clonal_keep_running(struct walk *walk, const struct ptr_stack *unreached);

/* finalisers.c */
PyObject *clonal_finalisable_objects(PyObject *module, PyObject *unused);
PyObject *clonal_finalise(PyObject *module, PyObject *object);
PyObject *clonal_has_finaliser(PyObject *module, PyObject *type);
PyObject *clonal_atexit_is_last(PyObject *module, PyObject *callback);
PyObject *clonal_atexit_last(PyObject *module, PyObject *callback);

static inline bool has_finaliser(PyTypeObject *type)
{
    return type->tp_finalize || type->tp_del;
}

#endif
