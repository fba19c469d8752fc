/* Redirects madvise, mremap, process_madvise and syscall of every loaded object to the guards.
 *
 * Allocators call these through their object's global offset table, so storing our function in the
 * slots that hold libc's reaches jemalloc, mimalloc, Rust's and CPython's own. Not reached: libc
 * itself (the image is laid out so that its realloc cannot grow it), system call instructions of
 * one's own (Go), an address from dlsym kept elsewhere, and objects loaded later: what those
 * allocate is no image until the next freeze, which patches them too. */
#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "interpose.h"
#include "sys.h"
#include "mapping.h"

#if defined(__x86_64__)
enum { RELOC_SLOT = R_X86_64_JUMP_SLOT, RELOC_DATA = R_X86_64_GLOB_DAT, RELOC_WORD = R_X86_64_64 };
#elif defined(__aarch64__)
enum { RELOC_SLOT = R_AARCH64_JUMP_SLOT, RELOC_DATA = R_AARCH64_GLOB_DAT, RELOC_WORD = R_AARCH64_ABS64 };
#endif

enum { GUARD_MADVISE = 1, GUARD_MREMAP = 2 };

/* Which guards stand; a disabled one lets its calls through. */
static _Atomic int active;

static long to_errno(long result)
{
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

static bool concerns_image(uintptr_t start, size_t length)
{
    return extents_hit(start, start + length);
}

static long route_madvise(uintptr_t start, size_t length, int advice)
{
    if (active & GUARD_MADVISE && concerns_image(start, length))
        return guard_madvise(start, length, advice);
    return SYS(SYS_madvise, start, length, advice);
}

static long route_mremap(uintptr_t old, size_t old_length, size_t new_length, unsigned long flags,
                         uintptr_t new)
{
    if (active & GUARD_MREMAP && concerns_image(old, old_length))
        return guard_mremap(old, old_length, new_length, flags, new);
    return SYS(SYS_mremap, old, old_length, new_length, flags, new);
}

static long route_process_madvise(int pidfd, const void *vector, size_t count, int advice, unsigned int flags)
{
    if (active & GUARD_MADVISE)
        return guard_process_madvise(pidfd, vector, count, advice, flags);
    return SYS(SYS_process_madvise, pidfd, vector, count, advice, flags);
}

static int our_madvise(void *start, size_t length, int advice)
{
    return (int)to_errno(route_madvise((uintptr_t)start, length, advice));
}

/* The variadic argument of mremap travels as a named one would on both architectures. */
static void *our_mremap(void *old, size_t old_length, size_t new_length, int flags, void *new)
{
    return (void *)to_errno(
        route_mremap((uintptr_t)old, old_length, new_length, (unsigned int)flags, (uintptr_t)new));
}

static ssize_t our_process_madvise(int pidfd, const void *vector, size_t count, int advice,
                                   unsigned int flags)
{
    return to_errno(route_process_madvise(pidfd, vector, count, advice, flags));
}

/* Reads six arguments whatever the caller gave, as libc's own does; all other numbers go there. */
static long our_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    switch (number) {
    case SYS_madvise:
        return to_errno(route_madvise((uintptr_t)a, (size_t)b, (int)c));
    case SYS_mremap:
        return to_errno(route_mremap((uintptr_t)a, (size_t)b, (size_t)c, (unsigned long)d, (uintptr_t)e));
    case SYS_process_madvise:
        return to_errno(route_process_madvise((int)a, (const void *)b, (size_t)c, (int)d, (unsigned int)e));
    default:
        return syscall(number, a, b, c, d, e, f);
    }
}

struct target {
    const char *name;
    int guards; /* patched if one of these is on */
    uintptr_t ours, theirs;
    unsigned long slots; /* patched by the last install */
};

static struct target targets[] = {
    {"madvise", GUARD_MADVISE, (uintptr_t)our_madvise},
    {"mremap", GUARD_MREMAP, (uintptr_t)our_mremap},
    {"process_madvise", GUARD_MADVISE, (uintptr_t)our_process_madvise},
    {"syscall", GUARD_MADVISE | GUARD_MREMAP, (uintptr_t)our_syscall},
};
#define TARGETS (sizeof targets / sizeof targets[0])

/* The dynamic section of one object, as far as relocations go. */
struct object {
    uintptr_t base, low, high; /* load bias and the span of its segments */
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Rela) * data, *slots;
    size_t data_count, slot_count;
};

struct patch {
    int guards;
    unsigned long objects, refused;
};

static uintptr_t dynamic_address(const struct object *object, ElfW(Addr) value)
{
    return value < object->base ? object->base + value : value; /* musl leaves them unrelocated */
}

static void read_dynamic(struct object *object, const ElfW(Dyn) * entry)
{
    for (; entry->d_tag != DT_NULL; entry++) {
        uintptr_t address = dynamic_address(object, entry->d_un.d_ptr);
        switch (entry->d_tag) {
        case DT_SYMTAB:
            object->symbols = (const ElfW(Sym) *)address;
            break;
        case DT_STRTAB:
            object->strings = (const char *)address;
            break;
        case DT_RELA:
            object->data = (const ElfW(Rela) *)address;
            break;
        case DT_RELASZ:
            object->data_count = entry->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_JMPREL:
            object->slots = (const ElfW(Rela) *)address;
            break;
        case DT_PLTRELSZ:
            object->slot_count = entry->d_un.d_val / sizeof(ElfW(Rela));
            break;
        }
    }
}

static bool read_object(struct object *object, const struct dl_phdr_info *info)
{
    const ElfW(Dyn) *dynamic = NULL;

    *object = (struct object){.base = info->dlpi_addr, .low = UINTPTR_MAX};
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = object->base + segment->p_vaddr;
        if (segment->p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)start;
        if (segment->p_type != PT_LOAD)
            continue;
        object->low = start < object->low ? start : object->low;
        object->high = start + segment->p_memsz > object->high ? start + segment->p_memsz : object->high;
    }
    if (!dynamic)
        return false;
    read_dynamic(object, dynamic);
    return object->symbols && object->strings;
}

static bool within(const struct object *object, uintptr_t address)
{
    return address >= object->low && address < object->high;
}

/* libc calls itself; ld.so and the vdso allocate nothing; our own calls mean the kernel. */
static bool left_alone(const struct object *object)
{
    for (size_t i = 0; i < TARGETS; i++)
        if (within(object, targets[i].ours) || within(object, targets[i].theirs))
            return true;
    return within(object, (uintptr_t)&_r_debug) || within(object, (uintptr_t)dlopen);
}

/* Stores `value` in a slot, whose page RELRO may have made read-only. */
static bool store(uintptr_t slot, uintptr_t value)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = slot & ~(page - 1);
    struct mapping_walk walk;
    struct mapping mapping = {0};
    bool writable;

    if (mapping_walk_open(&walk, slot) < 0)
        return false;
    if (!mapping_walk_next(&walk, &mapping) || mapping.start > slot)
        mapping.prot = 0;
    mapping_walk_close(&walk);
    writable = (mapping.prot & PROT_WRITE) != 0;
    if (!(mapping.prot & PROT_READ) ||
        (!writable && SYS(SYS_mprotect, start, page, mapping.prot | PROT_WRITE) < 0))
        return false;
    __atomic_store_n((uintptr_t *)slot, value, __ATOMIC_RELEASE);
    return writable || SYS(SYS_mprotect, start, page, mapping.prot) == 0;
}

/* A slot is libc's if it holds libc's address, or nothing bound yet: then it points back into its
 * own object. An object's own function of that name is no import and stays. */
static void patch_slot(const struct object *object, const ElfW(Rela) * reloc, struct patch *patch)
{
    unsigned long type = ELF64_R_TYPE(reloc->r_info);
    const ElfW(Sym) *symbol = &object->symbols[ELF64_R_SYM(reloc->r_info)];
    uintptr_t slot = object->base + reloc->r_offset, now;

    if ((type != RELOC_SLOT && type != RELOC_DATA && type != RELOC_WORD) || symbol->st_shndx != SHN_UNDEF ||
        reloc->r_addend || slot % sizeof slot)
        return;
    for (size_t i = 0; i < TARGETS; i++) {
        struct target *target = &targets[i];
        if (!(target->guards & patch->guards) || strcmp(object->strings + symbol->st_name, target->name) != 0)
            continue;
        now = *(uintptr_t *)slot;
        if (now == target->theirs || (type == RELOC_SLOT && within(object, now))) {
            if (!store(slot, target->ours))
                patch->refused++;
            else
                target->slots++;
        }
        return;
    }
}

static int patch_object(struct dl_phdr_info *info, size_t size, void *context)
{
    struct patch *patch = context;
    struct object object;

    (void)size;
    if (!read_object(&object, info) || left_alone(&object))
        return 0;
    patch->objects++;
    for (size_t i = 0; i < object.data_count; i++)
        patch_slot(&object, &object.data[i], patch);
    for (size_t i = 0; i < object.slot_count; i++)
        patch_slot(&object, &object.slots[i], patch);
    return 0;
}

static PyObject *describe(const struct patch *patch)
{
    PyObject *slots = PyDict_New();

    for (size_t i = 0; slots && i < TARGETS; i++) {
        PyObject *count = PyLong_FromUnsignedLong(targets[i].slots);
        if (!count || PyDict_SetItemString(slots, targets[i].name, count) < 0)
            Py_CLEAR(slots);
        Py_XDECREF(count);
    }
    return slots ? Py_BuildValue("{s:k,s:k,s:N}", "objects", patch->objects, "refused", patch->refused,
                                 "slots", slots)
                 : NULL;
}

/* interpose(guards, most_mappings): see _native.pyi. Call before the switch: it writes to tables
 * which then become image. */
static PyObject *interpose(PyObject *self, PyObject *args)
{
    struct patch patch = {0};
    unsigned long most_mappings;
    long result;

    (void)self;
    if (!PyArg_ParseTuple(args, "ik", &patch.guards, &most_mappings))
        return NULL;
    guard_install((size_t)sysconf(_SC_PAGESIZE), most_mappings);
    result = extents_install();
    if (result < 0) {
        errno = (int)-result;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    active = patch.guards;
    for (size_t i = 0; i < TARGETS; i++) {
        targets[i].slots = 0;
        targets[i].theirs = (uintptr_t)dlsym(RTLD_DEFAULT, targets[i].name);
    }
    dl_iterate_phdr(patch_object, &patch);
    return describe(&patch);
}

static PyObject *interpose_keep(PyObject *self, PyObject *unused)
{
    struct extent mapping = extents_mapping();

    (void)self;
    (void)unused;
    if (!mapping.end)
        return PyList_New(0);
    return Py_BuildValue("[(KK)]", (unsigned long long)mapping.start, (unsigned long long)mapping.end);
}

static PyObject *image_extents_refresh(PyObject *self, PyObject *unused)
{
    long result = extents_refresh();

    (void)self;
    (void)unused;
    if (result < 0) {
        errno = (int)-result;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(result);
}

static PyObject *image_extents(PyObject *self, PyObject *unused)
{
    PyObject *list = PyList_New(0);

    (void)self;
    (void)unused;
    for (struct extent e = extents_after(0); list && e.end; e = extents_after(e.end)) {
        PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)e.start, (unsigned long long)e.end);
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
        if (e.end == UINTPTR_MAX)
            break;
    }
    return list;
}

static PyObject *guard_counts(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return Py_BuildValue("{s:k,s:k,s:k}", "replaced", (unsigned long)guard_replaced, "zeroed",
                         (unsigned long)guard_zeroed, "moved", (unsigned long)guard_moved);
}

static PyObject *mappings_read_as_text(PyObject *self, PyObject *flag)
{
    int on = PyObject_IsTrue(flag);

    (void)self;
    if (on < 0)
        return NULL;
    mapping_walk_text_only = on;
    Py_RETURN_NONE;
}

PyMethodDef clonal_interpose_methods[] = {
    {"interpose", interpose, METH_VARARGS, "Redirect the guarded calls of all loaded objects."},
    {"interpose_keep", interpose_keep, METH_NOARGS, "Ranges that the image must leave alone."},
    {"image_extents_refresh", image_extents_refresh, METH_NOARGS, "Note where the image is now."},
    {"image_extents", image_extents, METH_NOARGS, "What was noted."},
    {"guard_counts", guard_counts, METH_NOARGS, "What the guards did in this process."},
    {"mappings_read_as_text", mappings_read_as_text, METH_O, "Read mappings as kernels before 6.11 must."},
    {NULL},
};
