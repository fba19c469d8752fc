/* The Python frames of the faulting thread, noted with their names: a code object may be gone, and so may the
 * process, before anybody reads what was noted. */
#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include "trap.h"

#include "native.h"

#include <string.h>

#include <internal/pycore_frame.h>
#include <internal/pycore_pystate.h>

enum { LONGEST = 1000 }; /* bytes of a name; the rest is cut off */

/* ---- names, each once ---- */

uint32_t trap_intern(struct ring *ring, const char *text, uint32_t length)
{
    uint64_t hash = 14695981039346656037u;
    for (uint32_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 1099511628211u;
    for (uint32_t i = 0, slot = (uint32_t)(hash >> 20); i < 2 * NAMES; i++, slot++) {
        uint32_t *at = &ring->name_index[slot % (2 * NAMES)];
        if (*at && !strncmp(ring->names + *at, text, length) && !ring->names[*at + length])
            return *at;
        if (*at)
            continue;
        uint32_t start = ring->names_end ? ring->names_end : 1; /* 0: no name */
        if (ring->name_count == NAMES || start + length + 1 > NAMES_TEXT)
            return 0;
        memcpy(ring->names + start, text, length); /* what follows is 0 already */
        ring->names_end = start + length + 1;
        ring->name_count++;
        return *at = start;
    }
    return 0;
}

static char *put_utf8(char *at, Py_UCS4 c)
{
    if (c < 0x80)
        return *at++ = (char)c, at;
    if (c < 0x800)
        return *at++ = (char)(0xC0 | c >> 6), *at++ = (char)(0x80 | (c & 0x3F)), at;
    if (c < 0x10000)
        *at++ = (char)(0xE0 | c >> 12);
    else
        *at++ = (char)(0xF0 | c >> 18), *at++ = (char)(0x80 | (c >> 12 & 0x3F));
    return *at++ = (char)(0x80 | (c >> 6 & 0x3F)), *at++ = (char)(0x80 | (c & 0x3F)), at;
}

/* A str as UTF-8; reads only. */
static uint32_t intern_str(struct ring *ring, PyObject *text)
{
    char copy[LONGEST], *at = copy;
    if (!text || !PyUnicode_Check(text))
        return 0;
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    int kind = (int)PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    for (Py_ssize_t i = 0; i < length && at < copy + LONGEST - 4; i++)
        at = put_utf8(at, PyUnicode_READ(kind, data, i));
    return trap_intern(ring, copy, (uint32_t)(at - copy));
}

/* ---- code objects ---- */

/* The index of a code object's names; CODES where there is no room. Another one may have come to lie there:
 * what it is called decides. */
static uint32_t code_number(struct ring *ring, PyCodeObject *code)
{
    uint64_t address = (uint64_t)code, name = (uint64_t)code->co_qualname, file = (uint64_t)code->co_filename;
    for (uint32_t i = 0, slot = (uint32_t)(address >> 4) * 2654435761u >> 17; i < 2 * CODES; i++, slot++) {
        uint32_t *at = &ring->code_index[slot % (2 * CODES)];
        const struct code *known = *at ? &ring->code[*at - 1] : NULL;
        if (known && known->address == address && known->qualname == name && known->filename == file &&
            known->first_line == code->co_firstlineno)
            return *at - 1;
        if (known)
            continue;
        if (ring->codes == CODES)
            return CODES;
        ring->code[ring->codes] = (struct code){address,
                                                name,
                                                file,
                                                code->co_firstlineno,
                                                intern_str(ring, code->co_qualname),
                                                intern_str(ring, code->co_filename)};
        return (*at = ++ring->codes) - 1;
    }
    return CODES;
}

/* ---- frames ---- */

static _PyInterpreterFrame *innermost(PyThreadState *state)
{
#if PY_VERSION_HEX >= 0x030D0000
    return state->current_frame;
#else
    return state->cframe ? state->cframe->current_frame : NULL;
#endif
}

static bool is_python(const _PyInterpreterFrame *frame)
{
#if PY_VERSION_HEX >= 0x030C0000
    return frame->owner != FRAME_OWNED_BY_CSTACK;
#else
    (void)frame;
    return true;
#endif
}

/* Where a thread is: the code object and its next or latest instruction, in code units. */
struct place {
    PyCodeObject *code;
    int64_t instruction;
};

static struct place look_at(const _PyInterpreterFrame *frame)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyCodeObject *code = (PyCodeObject *)frame->f_executable;
    _Py_CODEUNIT *at = frame->instr_ptr;
#else
    PyCodeObject *code = frame->f_code;
    _Py_CODEUNIT *at = frame->prev_instr;
#endif
    return (struct place){code, at - _PyCode_CODE(code)};
}

/* PyCode_Addr2Line only reads (Objects/codeobject.c). Before the first instruction: the line of `def`. */
static struct frame named(struct ring *ring, struct place place)
{
    bool inside = place.instruction >= 0 && place.instruction < Py_SIZE(place.code);
    int line = inside ? PyCode_Addr2Line(place.code, (int)(place.instruction * sizeof(_Py_CODEUNIT)))
                      : place.code->co_firstlineno;
    return (struct frame){code_number(ring, place.code), line};
}

static uint32_t walk(struct place *found, uint64_t *hash)
{
    PyThreadState *state = PyGILState_GetThisThreadState(); /* thread-specific: also without the GIL */
    uint32_t depth = 0;
    *hash = 14695981039346656037u;
    for (_PyInterpreterFrame *at = state ? innermost(state) : NULL; at && depth < DEPTH; at = at->previous) {
        if (!is_python(at))
            continue;
        struct place place = look_at(at);
        if (!Py_IS_TYPE(place.code, &PyCode_Type))
            continue;
        found[depth++] = place;
        *hash = (*hash ^ (uint64_t)place.code) * 1099511628211u;
        *hash = (*hash ^ (uint64_t)place.instruction) * 1099511628211u;
    }
    return depth;
}

uint64_t trap_running_code(uint64_t address)
{
    PyThreadState *state = PyGILState_GetThisThreadState();
    _PyInterpreterFrame *frame = state ? innermost(state) : NULL;
    while (frame && !is_python(frame))
        frame = frame->previous;
    PyCodeObject *code = frame ? look_at(frame).code : NULL;
    if (!code || !Py_IS_TYPE(code, &PyCode_Type) || address < (uint64_t)code ||
        address >= (uint64_t)(_PyCode_CODE(code) + Py_SIZE(code)))
        return 0;
    return (uint64_t)code;
}

static uint32_t add_stack(struct ring *ring, const struct place *places, uint32_t depth, uint64_t hash)
{
    if (ring->stacks == STACKS || ring->frames + depth > FRAMES)
        return 0;
    for (uint32_t i = 0; i < depth; i++)
        ring->frame[ring->frames + i] = named(ring, places[i]);
    ring->stack[ring->stacks] = (struct stack){hash, ring->frames, depth};
    ring->frames += depth;
    return ++ring->stacks;
}

uint32_t trap_stack(struct ring *ring)
{
    struct place places[DEPTH];
    uint64_t hash;
    uint32_t depth = walk(places, &hash);
    if (!depth)
        return 0;
    for (uint32_t i = 0, slot = (uint32_t)(hash >> 20); i < 2 * STACKS; i++, slot++) {
        uint32_t *number = &ring->stack_index[slot % (2 * STACKS)];
        if (!*number)
            return *number = add_stack(ring, places, depth, hash);
        if (ring->stack[*number - 1].hash == hash && ring->stack[*number - 1].depth == depth)
            return *number;
    }
    return 0;
}
