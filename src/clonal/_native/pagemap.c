#include "native.h"

PyMethodDef clonal_pagemap_methods[] = {{NULL}};
