/* What was about to be written at an address: a reference count, a gc header, an allocator's or the
 * interpreter's own words, or data; and of which object. Called in a signal handler: memory is read by
 * process_vm_readv, which fails where a pointer would crash.
 *
 * The structures are CPython's (Objects/obmalloc.c, Include/internal/pycore_obmalloc.h, pycore_object.h): a
 * pool is 16 KiB, its header tells the size of its blocks; an object begins behind its gc header and, in some
 * types, two words more. What does not fit is not guessed at.
 */
#define Py_BUILD_CORE 1
#include "trap.h"

#include "native.h"
#include "trap_state.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <internal/pycore_code.h>

enum { POOL = 1 << 14, POOL_HEADER = 48, ALIGN = 16, SMALLEST = 16, LARGEST = 512, WINDOW = 64, PAGE = 4096 };

#if PY_VERSION_HEX >= 0x030C0000
#define PREHEADER (Py_TPFLAGS_MANAGED_DICT | Py_TPFLAGS_MANAGED_WEAKREF)
#else
#define PREHEADER Py_TPFLAGS_MANAGED_DICT
#endif

struct pool_header {
    uint32_t count, spare;
    uint64_t free, next, previous;
    uint32_t arena, size_class, next_offset, last_offset;
};

/* By /proc/self/mem: process_vm_readv pins the pages that it reads, which copies those that are shared
 * (mm/gup.c gup_must_unshare). */
bool trap_peek(uint64_t from, void *to, unsigned long length)
{
    return pread(clonal_trap.memory, to, length, (off_t)from) == (ssize_t)length;
}

/* The same of what is near an address whose page is present: without a system call if it lies on that page.
 */
static bool peek_near(uint64_t present, uint64_t from, void *to, unsigned long length)
{
    if (from / PAGE != present / PAGE || (from + length - 1) / PAGE != present / PAGE)
        return trap_peek(from, to, length);
    memcpy(to, (const void *)from, length);
    return true;
}

/* ---- types ---- */

static bool read_shape(uint64_t candidate, struct shape *found)
{
    PyTypeObject type, meta;
    if (!candidate || candidate & 7 || !trap_peek(candidate, &type, sizeof type))
        return false;
    if (!(type.tp_flags & Py_TPFLAGS_READY) || type.tp_basicsize < (Py_ssize_t)sizeof(PyObject) ||
        type.tp_basicsize > 1 << 20)
        return false;
    if (Py_TYPE(&type) != &PyType_Type &&
        !(trap_peek((uint64_t)Py_TYPE(&type), &meta, sizeof meta) && Py_TYPE(&meta) == &PyType_Type &&
          meta.tp_flags & Py_TPFLAGS_TYPE_SUBCLASS))
        return false;
    uint64_t flags = type.tp_flags;
    unsigned presize = (flags & Py_TPFLAGS_HAVE_GC ? 16 : 0) + (flags & PREHEADER ? 16 : 0);
    size_t size = candidate == (uint64_t)&PyUnicode_Type ? sizeof(PyASCIIObject) : (size_t)type.tp_basicsize;
    *found = (struct shape){candidate, flags, presize,
                            (uint32_t)size}; /* short strings are shorter than their type says */
    return true;
}

static uint32_t type_name(struct ring *ring, uint64_t type)
{
    char text[256] = {0};
    uint64_t at;
    if (!trap_peek(type + offsetof(PyTypeObject, tp_name), &at, sizeof at))
        return 0;
    uint64_t left = PAGE - at % PAGE; /* the next page may not be there */
    if (left < sizeof text && trap_peek(at, text, left) && strnlen(text, left) == left)
        trap_peek(at + left, text + left, sizeof text - 1 - left);
    else if (left >= sizeof text)
        trap_peek(at, text, sizeof text - 1);
    return trap_intern(ring, text, (uint32_t)strlen(text));
}

/* The number of a type, from 1, with its shape; 0 if the address is none. A type that is no static one may
 * have died since its number was given: it is read again. */
static uint32_t type_number(struct ring *ring, uint64_t address, struct shape *shape)
{
    uint32_t slot = (uint32_t)(address >> 4) * 2654435761u >> 19;
    for (uint32_t i = 0; i < 2 * TYPES; i++, slot++) {
        uint32_t number = ring->type_index[slot % (2 * TYPES)];
        if (number && ring->type[number - 1].type != address)
            continue;
        if (number)
            *shape = ring->type[number - 1];
        if (number && !(shape->flags & Py_TPFLAGS_HEAPTYPE))
            return number;
        if (!read_shape(address, shape) || (!number && ring->types == TYPES))
            return 0;
        if (number)
            return number;
        shape->name = type_name(ring, address);
        ring->type[ring->types++] = *shape;
        return ring->type_index[slot % (2 * TYPES)] = ring->types;
    }
    return 0;
}

/* ---- causes ---- */

/* Of a write `offset` bytes into an object, or before it. */
static enum cause cause_in(const struct shape *shape, long offset)
{
    if (offset >= 0 && offset < 8)
        return CAUSE_REFCOUNT;
    if (offset < 0)
        return offset >= -16 && shape->flags & Py_TPFLAGS_HAVE_GC ? CAUSE_GC : CAUSE_DATA;
    if (shape->type == (uint64_t)&PyCode_Type)
        return CAUSE_INTERPRETER; /* adaptive instructions, caches */
    if (shape->type == (uint64_t)&PyUnicode_Type && offset == offsetof(PyASCIIObject, hash))
        return CAUSE_INTERPRETER; /* the hash, computed when first needed */
    if (shape->flags & Py_TPFLAGS_TYPE_SUBCLASS)
        return CAUSE_INTERPRETER; /* method cache tags, subclasses */
    return CAUSE_DATA;
}

/* The number of the type of the object in a block, and its shape. */
static uint32_t object_in(struct ring *ring, uint64_t near, uint64_t block, unsigned size,
                          struct shape *shape)
{
    uint64_t words[8] = {0};
    unsigned length = size < sizeof words ? size : sizeof words;
    if (!peek_near(near, block, words, length))
        return 0;
    for (unsigned begin = 0; begin <= 32 && begin + 16 <= length; begin += 16) {
        uint32_t number = type_number(ring, words[begin / 8 + 1], shape);
        if (number && shape->presize == begin && begin + shape->size <= size)
            return number;
    }
    return 0;
}

/* The size of the blocks of a pool, 0 if there is none at this address; remembered for the next fault nearby.
 */
static unsigned block_size(struct ring *ring, uint64_t near, uint64_t pool)
{
    struct pool_header header;
    if (pool == ring->pool)
        return ring->pool_block;
    ring->pool = pool, ring->pool_block = 0;
    if (!peek_near(near, pool, &header, sizeof header) || header.size_class >= LARGEST / ALIGN)
        return 0;
    unsigned size = (header.size_class + 1) * SMALLEST;
    if (header.last_offset != POOL - size || header.next_offset > POOL || header.count > POOL / size ||
        header.spare)
        return 0;
    return ring->pool_block = size;
}

bool trap_in_pool(struct ring *ring, uint64_t address)
{
    return block_size(ring, address, address & ~(uint64_t)(POOL - 1)) != 0;
}

/* A write into a pool of small blocks. False if there is no pool here. */
static bool in_pool(struct ring *ring, struct fault *fault)
{
    uint64_t pool = fault->address & ~(uint64_t)(POOL - 1), offset = fault->address - pool;
    unsigned size = block_size(ring, fault->address, pool);
    if (!size)
        return false;
    fault->in_pool = 1;
    fault->cause = CAUSE_ALLOCATOR;
    if (offset < POOL_HEADER)
        return true;
    uint64_t block = pool + POOL_HEADER + (offset - POOL_HEADER) / size * size;
    struct shape shape;
    fault->type = object_in(ring, fault->address, block, size, &shape);
    fault->cause = CAUSE_DATA;
    if (fault->type)
        fault->cause = (uint8_t)cause_in(&shape, (long)(fault->address - block) - (long)shape.presize);
    return true;
}

/* A code object too long for a pool, that adapts its own instructions. */
static bool in_running_code(struct ring *ring, struct fault *fault)
{
    struct shape shape;
    uint64_t code = trap_running_code(fault->address);
    if (!code)
        return false;
    fault->type = type_number(ring, (uint64_t)&PyCode_Type, &shape);
    fault->cause = fault->address < code + 8 ? CAUSE_REFCOUNT : CAUSE_INTERPRETER;
    return true;
}

/* No count is longer, nor is an immortal one; and types that follow one another are a list's items. */
static bool is_count(struct ring *ring, uint64_t word)
{
    struct shape shape;
    return word && word <= UINT32_MAX && !(word > UINT16_MAX && type_number(ring, word, &shape));
}

/* Elsewhere: an object's first words, if the address is one of them. */
static void by_words(struct ring *ring, struct fault *fault)
{
    uint64_t words[4] = {0}; /* from the address on */
    uint64_t left = PAGE - fault->address % PAGE;
    fault->cause = CAUSE_DATA;
    if (in_running_code(ring, fault) || fault->address & 7)
        return;
    memcpy(words, (const void *)fault->address, left < sizeof words ? left : sizeof words);
    static const struct {
        int word;
        enum cause cause;
    } looks[] = {{1, CAUSE_REFCOUNT}, {3, CAUSE_GC}, {2, CAUSE_GC}};
    for (unsigned i = 0; i < 3; i++) {
        struct shape shape;
        uint32_t number =
            is_count(ring, words[looks[i].word - 1]) ? type_number(ring, words[looks[i].word], &shape) : 0;
        if (!number || (looks[i].cause == CAUSE_GC && !(shape.flags & Py_TPFLAGS_HAVE_GC)))
            continue;
        fault->type = number;
        fault->cause = (uint8_t)looks[i].cause;
        return;
    }
}

void trap_classify(struct ring *ring, struct fault *fault)
{
    fault->type = 0;
    fault->in_pool = 0;
    if (!in_pool(ring, fault))
        by_words(ring, fault);
}
