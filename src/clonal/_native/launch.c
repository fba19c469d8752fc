#include "native.h"

PyMethodDef clonal_launch_methods[] = {{NULL}};
