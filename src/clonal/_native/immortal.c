#include "native.h"

PyMethodDef clonal_immortal_methods[] = {{NULL}};
