"""Where CPython keeps what is read of other processes: threads, frames, code objects, types; by version."""

from __future__ import annotations

import struct
from typing import NamedTuple

NO_C_FRAME = 0xFFFF  # the current frame is in the thread state itself


class Layout(NamedTuple):
    """Offsets and sizes in bytes, in the order of struct layout of _bpf/event.h."""

    interpreters: int
    next_interpreter: int
    threads: int
    next_thread: int
    thread_id: int
    c_frame: int
    current_frame: int
    code: int
    instruction: int
    previous: int
    owner: int
    not_python: int  # the owner of a frame that runs no Python; 255: there is none
    first_line: int  # from here on: of code objects, strings, bytes and types
    file_name: int
    qualified_name: int
    line_table: int
    instructions: int
    ascii: int
    compact: int
    data: int  # of bytes
    type_name: int
    type_size: int
    type_flags: int

    def packed(self, runtime: int) -> bytes:
        """struct python of _bpf/event.h."""
        return struct.pack("<Q24I", runtime, *self, 0)


# Include/internal/pycore_runtime.h, pycore_interp.h, pycore_frame.h, cpython/pystate.h, cpython/code.h;
# tests compare them with the headers of the interpreters there are.
LAYOUTS = {
    (3, 11): Layout(
        interpreters=40, next_interpreter=0, threads=16, next_thread=8, thread_id=152, c_frame=56,
        current_frame=8, code=32, instruction=56, previous=48, owner=69, not_python=255, first_line=72,
        file_name=112, qualified_name=128, line_table=136, instructions=184, ascii=48, compact=72, data=32,
        type_name=24, type_size=32, type_flags=168,
    ),
    (3, 12): Layout(
        interpreters=40, next_interpreter=0, threads=72, next_thread=8, thread_id=136, c_frame=56,
        current_frame=0, code=0, instruction=56, previous=8, owner=70, not_python=3, first_line=68,
        file_name=112, qualified_name=128, line_table=136, instructions=192, ascii=40, compact=56, data=32,
        type_name=24, type_size=32, type_flags=168,
    ),
    (3, 13): Layout(
        interpreters=632, next_interpreter=7264, threads=7344, next_thread=8, thread_id=152,
        c_frame=NO_C_FRAME, current_frame=72, code=0, instruction=56, previous=8, owner=70, not_python=3,
        first_line=68, file_name=112, qualified_name=128, line_table=136, instructions=200, ascii=40,
        compact=56, data=32, type_name=24, type_size=32, type_flags=168,
    ),
}  # fmt: skip


def layout_of(version: int) -> Layout | None:
    """Of the interpreter whose `Py_Version` this is (PY_VERSION_HEX)."""
    return LAYOUTS.get((version >> 24, version >> 16 & 0xFF))


def spelled(version: int) -> str:
    """3.13.0, of the same number."""
    return f"{version >> 24}.{version >> 16 & 0xFF}.{version >> 8 & 0xFF}"
