/* The method table of clonal._native, alone in its file. */
#include "native.h"

static PyMethodDef *const tables[] = {
    clonal_image_methods,      clonal_in_place_methods,  clonal_immortal_methods,    clonal_pools_methods,
    clonal_serve_methods,      clonal_launch_methods,    clonal_interpose_methods,   clonal_pagemap_methods,
    clonal_wire_methods,       clonal_birth_methods,     clonal_life_methods,        clonal_trap_methods,
    clonal_trap_drain_methods, clonal_trap_keep_methods, clonal_trap_theirs_methods,
};

static int exec_module(PyObject *module)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (PyModule_AddFunctions(module, tables[i]) < 0)
            return -1;
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, exec_module}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "clonal._native",
    .m_doc = "The C core of Clonal.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
