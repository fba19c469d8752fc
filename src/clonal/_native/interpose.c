#include "native.h"

PyMethodDef clonal_interpose_methods[] = {{NULL}};
