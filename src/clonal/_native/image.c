#include "native.h"

PyMethodDef clonal_image_methods[] = {{NULL}};
