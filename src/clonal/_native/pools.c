#include "native.h"

PyMethodDef clonal_pools_methods[] = {{NULL}};
