"""What the eBPF program tells: events as numpy has them (_bpf/event.h)."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

EVENT = np.dtype(
    [
        ("time", "<u8"), ("address", "<u8"), ("ip", "<u8"), ("kind", "<u4"), ("pid", "<u4"),
        ("thread", "<u4"), ("child", "<u4"), ("flags", "<u4"), ("depth", "<u4"),
        ("fresh", "<u8"), ("lost", "<u8"), ("pool", "<u4", 12), ("block", "<u8", 8), ("at", "<u8", 4),
    ]
)  # fmt: skip
TEXTS = ((208, 256), (464, 512), (976, 3120))  # where texts are, behind an object of OBJECT, and their room
FRAME = 16  # bytes: code object, instruction
FAULT = np.dtype(
    [
        ("time", "<u8"), ("address", "<u8"), ("ip", "<u8"), ("thread", "<u4"), ("stack", "<u4"),
        ("type", "<u4"), ("cause", "u1"), ("outcome", "u1"), ("in_pool", "u1"), ("spare", "u1"),
    ]
)  # fmt: skip
Events = npt.NDArray[Any]


class Happened(enum.IntEnum):
    """Kinds of events."""

    COPY = 1
    FORK = 2
    EXEC = 3
    EXIT = 4
    OBJECT = 5  # a code object or a type, seen for the first time


class Told(enum.IntFlag):
    """What is known of an event."""

    BY_KERNEL = 1
    FROM_FILE = 2
    NOT_SURE = 4
    POOL_READ = 8
    BLOCK_READ = 16
    AT_READ = 32
    VFORKED = 64
    FIRST = 128
    OF_FILE = 256


class State(enum.IntEnum):
    """Of a process, to the program."""

    FOLLOWED = 1
    RECORDED = 2
    SPAWNER = 3
