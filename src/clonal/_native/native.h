/* The C core: what each topic file offers to module.c and to its neighbours. */
#ifndef CLONAL_NATIVE_H
#define CLONAL_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

/* Each topic file defines one method table ending in {NULL}; module.c adds them all. */
extern PyMethodDef clonal_image_methods[];      /* freeze.c: the image */
extern PyMethodDef clonal_in_place_methods[];   /* in_place.c: what needs no image */
extern PyMethodDef clonal_immortal_methods[];   /* immortal.c: immortalise, self-test */
extern PyMethodDef clonal_pools_methods[];      /* pools.c: detach half-used allocator pools */
extern PyMethodDef clonal_serve_methods[];      /* serve.c: the template's wait loop */
extern PyMethodDef clonal_birth_methods[];      /* birth.c: from a fork to the child's first line of Python */
extern PyMethodDef clonal_life_methods[];       /* life.c: what a clone does where nothing is unusual */
extern PyMethodDef clonal_wire_methods[];       /* wire.c: messages with descriptors, the board */
extern PyMethodDef clonal_launch_methods[];     /* launch.c: vfork + exec through clone3 */
extern PyMethodDef clonal_interpose_methods[];  /* interpose.c: madvise, mremap, syscall on image pages */
extern PyMethodDef clonal_pagemap_methods[];    /* pagemap.c: which image pages this process copied */
extern PyMethodDef clonal_trap_methods[];       /* trap.c: recording of copy-on-write faults */
extern PyMethodDef clonal_trap_drain_methods[]; /* trap_drain.c: what was recorded, readable */
extern PyMethodDef clonal_trap_keep_methods[];  /* trap_keep.c: the ring, given to who outlives us */
extern PyMethodDef clonal_trap_theirs_methods[]; /* trap_theirs.c: SIGTRAPs that are the program's */

#endif
