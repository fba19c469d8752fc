/* Detaching half-used allocator pools: new objects go to fresh memory.
 *
 * obmalloc serves a small object from the first pool of its size class that has room, so a clone's
 * first objects would land between frozen ones and copy their pages; in the template they would give
 * the image's mapping private pages, which every later fork has to copy entries for. Detached, a pool
 * takes frees as ever and goes back to its arena when it is empty; what it has free until then is
 * the price. Pools that hold nothing are given back to the kernel and counted as in use: their arena
 * looks full, and the next pool comes from a new arena.
 *
 * The structures are CPython's own (pycore_obmalloc.h) and are checked whole before a word is written.
 */
#define Py_BUILD_CORE 1
#include "native.h"

#include <malloc.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000 && defined(WITH_PYMALLOC) &&                 \
    !defined(Py_GIL_DISABLED)
#define HAS_POOLS 1
#undef _PyGC_FINALIZED
#include <internal/pycore_interp.h>
#include <internal/pycore_obmalloc.h>
#endif

#ifdef HAS_POOLS

typedef struct _obmalloc_state allocator;
typedef struct arena_object arena;
typedef struct pool_header pool;

static allocator *this_allocator(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyInterpreterState_Get()->obmalloc;
#else
    return &PyInterpreterState_Get()->obmalloc;
#endif
}

/* A size class's list head: two words of `used` seen as the links of a pool (pycore_obmalloc.h). */
static pool *head_of(allocator *alloc, unsigned size_class)
{
    return (pool *)((char *)&alloc->pools.used[2 * size_class] - 2 * sizeof(pymem_block *));
}

static bool is_pool_of(const allocator *alloc, const pool *p, unsigned size_class)
{
    if ((uintptr_t)p & POOL_SIZE_MASK)
        return false;
    for (unsigned i = 0; i < alloc->mgmt.maxarenas; i++) {
        const arena *a = &alloc->mgmt.arenas[i];
        if (a->address && (uintptr_t)p - a->address < ARENA_SIZE)
            return p->arenaindex == i && p->szidx == size_class && p->ref.count > 0 && p->freeblock;
    }
    return false;
}

/* Number of pools in the ring of this size class, -1 if it is not what the headers describe. */
static long ring_length(allocator *alloc, unsigned size_class, long limit)
{
    pool *head = head_of(alloc, size_class);
    long n = 0;
    for (pool *p = head, *next = p->nextpool;; p = next, next = p->nextpool) {
        if (next == head)
            return next->prevpool == p ? n : -1;
        if (n++ == limit || !is_pool_of(alloc, next, size_class) || next->prevpool != p)
            return -1;
    }
}

/* A fresh small object must lie in a pool of its class in a known arena. */
static bool pymalloc_in_use(const allocator *alloc)
{
    void *probe = PyObject_Malloc(ALIGNMENT);
    const pool *p = (const pool *)((uintptr_t)probe & ~(uintptr_t)POOL_SIZE_MASK);
    bool found = false;
    for (unsigned i = 0; probe && !found && i < alloc->mgmt.maxarenas; i++) {
        const arena *a = &alloc->mgmt.arenas[i];
        found = a->address && (uintptr_t)p - a->address < ARENA_SIZE && p->arenaindex == i;
    }
    PyObject_Free(probe);
    return found;
}

/* The free pools of one arena are as many as it says, each inside it and empty. */
static bool arena_sane(const arena *a)
{
    unsigned free = 0;
    for (const pool *p = a->freepools; p; p = p->nextpool)
        if (++free > a->nfreepools || (uintptr_t)p - a->address >= ARENA_SIZE || p->ref.count)
            return false;
    uintptr_t end = a->address + ARENA_SIZE, at = (uintptr_t)a->pool_address;
    return at >= a->address && at <= end && at % POOL_SIZE == 0 &&
           free + (end - at) / POOL_SIZE == a->nfreepools;
}

static const char *whats_wrong(allocator *alloc)
{
    if (!alloc || !alloc->mgmt.arenas || alloc->mgmt.narenas_currently_allocated > alloc->mgmt.maxarenas)
        return "pymalloc has no arenas";
    if (!pymalloc_in_use(alloc))
        return "small objects do not come from pymalloc (PYTHONMALLOC?)";
    long limit = (long)(alloc->mgmt.narenas_currently_allocated * (ARENA_SIZE / POOL_SIZE));
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++)
        if (ring_length(alloc, i, limit) < 0)
            return "a pool list is not as the headers describe it";
    unsigned usable = 0;
    for (const arena *a = alloc->mgmt.usable_arenas; a; a = a->nextarena)
        if (++usable > alloc->mgmt.maxarenas || !a->address || !arena_sane(a))
            return "the arena list is not as the headers describe it";
    return NULL;
}

/* Empty the ring: each pool becomes a ring of its own, so that unlinking it later touches only it. */
static long detach_ring(allocator *alloc, unsigned size_class)
{
    pool *head = head_of(alloc, size_class);
    long n = 0;
    for (pool *p = head->nextpool, *next; p != head; p = next, n++) {
        next = p->nextpool;
        p->nextpool = p->prevpool = p;
    }
    head->nextpool = head->prevpool = head;
    return n;
}

static void give_back(uintptr_t from, uintptr_t to)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    from = (from + page) & ~page;
    to &= ~page;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

/* An arena whose free pools are gone looks full; it comes back when one of its pools is emptied. Where
 * the pool is part of an image, giving it back uncovers the image's bytes: sys.getallocatedblocks()
 * must not count those. */
static size_t retire(arena *a)
{
    size_t n = a->nfreepools;
    for (pool *p = a->freepools, *next; p; p = next) {
        next = p->nextpool;
        give_back((uintptr_t)p, (uintptr_t)p + POOL_SIZE);
        if (p->ref.count)
            p->ref.count = 0;
    }
    uintptr_t end = a->address + ARENA_SIZE;
    give_back((uintptr_t)a->pool_address, end);
    a->pool_address = (pymem_block *)(end & ~(uintptr_t)POOL_SIZE_MASK);
    a->freepools = NULL;
    a->nfreepools = 0;
    a->nextarena = a->prevarena = NULL;
    return n;
}

static size_t retire_usable(allocator *alloc)
{
    size_t n = 0;
    for (arena *a = alloc->mgmt.usable_arenas, *next; a; a = next) {
        next = a->nextarena;
        n += retire(a);
    }
    alloc->mgmt.usable_arenas = NULL;
    memset(alloc->mgmt.nfp2lasta, 0, sizeof alloc->mgmt.nfp2lasta);
    return n;
}

/* detach_pools() -> (half-used pools detached, empty pools given back) or a string: why not. */
static PyObject *detach_pools(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    allocator *alloc = this_allocator();
    const char *wrong = whats_wrong(alloc);
    if (wrong)
        return PyUnicode_FromString(wrong);
    long pools = 0;
    for (unsigned i = 0; i < NB_SMALL_SIZE_CLASSES; i++)
        pools += detach_ring(alloc, i);
    return Py_BuildValue("(ln)", pools, (Py_ssize_t)retire_usable(alloc));
}

#else

static PyObject *detach_pools(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyUnicode_FromFormat("CPython %d.%d keeps its allocator's pools out of reach", PY_MAJOR_VERSION,
                                PY_MINOR_VERSION);
}

#endif

/* trim_malloc() -> bool: the C library gave free memory back to the kernel. */
static PyObject *trim_malloc(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
#ifdef __GLIBC__
    return PyBool_FromLong(malloc_trim(0));
#else
    Py_RETURN_FALSE;
#endif
}

PyMethodDef clonal_pools_methods[] = {
    {"detach_pools", detach_pools, METH_NOARGS, NULL},
    {"trim_malloc", trim_malloc, METH_NOARGS, NULL},
    {NULL},
};
