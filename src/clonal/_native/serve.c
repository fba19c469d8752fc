#include "native.h"

PyMethodDef clonal_serve_methods[] = {{NULL}};
