/* What only running code holds: variables of running functions, half-built objects in C callers.
 *
 * An object that a running function will drop must stay mortal, or it is never freed; a tuple that C
 * is still filling must, or PyTuple_SetItem and _PyTuple_Resize fail on it. Nothing says where C
 * functions keep their references, so the stacks are scanned conservatively, as collectors for C do:
 * any word that equals the address of a not yet reached object counts. A stale word keeps an object
 * mortal that need not be; that costs a few copied pages and nothing else.
 */
#include "heap.h"

#include <pthread.h>

#ifdef CLONAL_HAS_IMMORTALS

struct scan {
    struct walk *walk;
    struct ptr_set unreached; /* candidates; everything else has been marked */
    struct ptr_stack todo;    /* kept, children not visited yet */
};

/* Keep one mortal object back, and later what it refers to. */
static int keep(PyObject *object, void *arg)
{
    struct scan *scan = arg;
    struct walk *walk = scan->walk;
    if (is_immortal(object) || set_has(&walk->kept, object))
        return 0;
    if (!clonal_set_add(&walk->kept, object) || !stack_push(&scan->todo, object))
        walk->failed = true;
    return 0;
}

/* Keep back everything that only kept objects lead to; the number of objects kept so far. */
static size_t close_over(struct scan *scan)
{
    while (scan->todo.n) {
        PyObject *object = scan->todo.items[--scan->todo.n];
        keep((PyObject *)Py_TYPE(object), scan);
        clonal_visit_children(object, scan->walk, keep, scan);
    }
    return scan->walk->kept.n;
}

/* Every aligned word in [from, to) that is an unreached object. Reads red zones on purpose. */
__attribute__((no_sanitize("address"))) static void scan_words(struct scan *scan, const void *from,
                                                               const void *to)
{
    const uintptr_t *word = (const uintptr_t *)(((uintptr_t)from + 7) & ~(uintptr_t)7);
    for (; (const void *)(word + 1) <= to; word++)
        if (*word && set_has(&scan->unreached, (void *)*word))
            keep((PyObject *)*word, scan);
}

/* The C stack of this thread from `sp` up. Other threads wait for the GIL: see keep_half_built. */
static void scan_c_stack(struct scan *scan, char *sp)
{
    pthread_attr_t attr;
    void *base;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attr))
        return;
    if (!pthread_attr_getstack(&attr, &base, &size) && sp >= (char *)base && sp < (char *)base + size)
        scan_words(scan, sp, (char *)base + size);
    pthread_attr_destroy(&attr);
}

/* Frames of Python functions live in chunks that belong to their thread, variables and evaluation
 * stack together. */
static void scan_frames(struct scan *scan)
{
    PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; thread; thread = PyThreadState_Next(thread)) {
        const void *top = thread->datastack_top;
        for (_PyStackChunk *chunk = thread->datastack_chunk; chunk; chunk = chunk->previous) {
            scan_words(scan, chunk->data, top ? top : chunk->data);
            top = chunk->previous ? chunk->previous->data + chunk->previous->top : NULL;
        }
    }
}

/* A running generator's frame is part of the generator. */
static void scan_generators(struct scan *scan)
{
    for (size_t i = 0; i < scan->walk->running.n; i++) {
        PyObject *generator = scan->walk->running.items[i];
        size_t size = Py_TYPE(generator)->tp_basicsize;
        size += (size_t)Py_TYPE(generator)->tp_itemsize * Py_SIZE(generator);
        scan_words(scan, generator, (char *)generator + size);
        stack_push(&scan->todo, generator);
    }
}

/* The types whose C API insists on a single reference while they are filled. A list or dictionary in
 * the hands of C can become immortal without harm; interpreters own hundreds of those. */
static bool looks_half_built(PyObject *object)
{
    return Py_REFCNT(object) == 1 && (PyTuple_CheckExact(object) || PyFrozenSet_CheckExact(object));
}

struct refer {
    struct ptr_set suspects, referred;
    bool failed;
};

static int note_reference(PyObject *object, void *arg)
{
    struct refer *refer = arg;
    if (set_has(&refer->suspects, object) && !clonal_set_add(&refer->referred, object))
        refer->failed = true;
    return 0;
}

/* A tuple with one reference which no object holds is in the hands of some C function, perhaps
 * of another thread whose registers and stack nobody can read reliably. */
static void keep_half_built(struct scan *scan, const struct ptr_stack *unreached)
{
    struct refer refer = {0};
    for (size_t i = 0; i < unreached->n; i++)
        if (looks_half_built(unreached->items[i]) && !set_has(&scan->walk->kept, unreached->items[i]))
            refer.failed |= !clonal_set_add(&refer.suspects, unreached->items[i]);
    for (size_t i = 0; refer.suspects.n && i < unreached->n; i++)
        clonal_visit_children(unreached->items[i], scan->walk, note_reference, &refer);
    for (size_t i = 0; i < refer.suspects.cap; i++) {
        PyObject *suspect = (PyObject *)refer.suspects.slots[i];
        if (suspect && !set_has(&refer.referred, suspect))
            keep(suspect, scan);
    }
    scan->walk->failed |= refer.failed;
    clonal_set_free(&refer.suspects);
    clonal_set_free(&refer.referred);
}

/* Objects that the caller excluded, or whose type it excluded, keep what only they lead to. */
static void keep_excluded(struct scan *scan, const struct ptr_stack *unreached)
{
    for (size_t i = 0; i < unreached->n; i++) {
        PyObject *object = unreached->items[i];
        if (!clonal_is_excluded(object, scan->walk))
            continue;
        if (!clonal_set_add(&scan->walk->kept, object) || !stack_push(&scan->todo, object))
            scan->walk->failed = true;
    }
}

/* Fill walk->kept from `unreached`: the collector's objects that no module, thread state or immortal
 * object leads to. -1 if memory ran out: then nothing of `unreached` may be marked. */
int clonal_keep_running(struct walk *walk, const struct ptr_stack *unreached)
{
    struct scan scan = {.walk = walk};
    __builtin_unwind_init(); /* registers that a caller's reference may live in go to the stack */
    for (size_t i = 0; i < unreached->n; i++)
        walk->failed |= !clonal_set_add(&scan.unreached, unreached->items[i]);
    size_t before = walk->kept.n;
    keep_excluded(&scan, unreached);
    size_t excluded = close_over(&scan);
    scan_frames(&scan);
    scan_c_stack(&scan, __builtin_frame_address(0));
    scan_generators(&scan);
    keep_half_built(&scan, unreached);
    size_t all = close_over(&scan);
    walk->kept_excluded += excluded - before;
    walk->kept_running += all - excluded;
    clonal_set_free(&scan.unreached);
    clonal_stack_free(&scan.todo);
    return walk->failed ? -1 : 0;
}

#endif
