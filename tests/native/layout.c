/* Prints where the CPython of these headers keeps what clonal record reads of other processes. */
#define Py_BUILD_CORE 1
#include <Python.h>

#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>
#include <stddef.h>
#include <stdio.h>

#define AT(name, type, member) printf("%s %zu\n", name, offsetof(type, member))

int main(void)
{
    AT("interpreters", _PyRuntimeState, interpreters.head);
    AT("next_interpreter", PyInterpreterState, next);
    AT("threads", PyInterpreterState, threads.head);
    AT("next_thread", PyThreadState, next);
    AT("thread_id", PyThreadState, thread_id);
#if PY_VERSION_HEX < 0x030d0000
    AT("c_frame", PyThreadState, cframe);
    AT("current_frame", _PyCFrame, current_frame);
    AT("code", _PyInterpreterFrame, f_code);
    AT("instruction", _PyInterpreterFrame, prev_instr);
#else
    printf("c_frame %d\n", 0xffff);
    AT("current_frame", PyThreadState, current_frame);
    AT("code", _PyInterpreterFrame, f_executable);
    AT("instruction", _PyInterpreterFrame, instr_ptr);
#endif
    AT("previous", _PyInterpreterFrame, previous);
    AT("owner", _PyInterpreterFrame, owner);
#if PY_VERSION_HEX < 0x030c0000
    printf("not_python %d\n", 255);
#else
    printf("not_python %d\n", FRAME_OWNED_BY_CSTACK);
#endif
    AT("first_line", PyCodeObject, co_firstlineno);
    AT("file_name", PyCodeObject, co_filename);
    AT("qualified_name", PyCodeObject, co_qualname);
    AT("line_table", PyCodeObject, co_linetable);
    AT("instructions", PyCodeObject, co_code_adaptive);
    printf("ascii %zu\n", sizeof(PyASCIIObject));
    printf("compact %zu\n", sizeof(PyCompactUnicodeObject));
    AT("data", PyBytesObject, ob_sval);
    AT("type_name", PyTypeObject, tp_name);
    AT("type_size", PyTypeObject, tp_basicsize);
    AT("type_flags", PyTypeObject, tp_flags);
    return 0;
}
