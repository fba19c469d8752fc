"""A page-exact model of the kernel's copy-on-write memory management: pure, without system calls.

README.md beside this file teaches what it models.
"""

from clonal.model.errors import (
    BadFlags,
    BadMachine,
    BadRange,
    CommitRefused,
    ModelError,
    NoSuchProcess,
    OutOfFrames,
    Segfault,
    WouldBlock,
)
from clonal.model.faults import Faults
from clonal.model.files import File
from clonal.model.flags import PAGE, Advice, Config, Kind, Map, Prot
from clonal.model.fork import ForkWork
from clonal.model.machine import Machine
from clonal.model.process import Pages, Process, Rss

__all__ = [
    "PAGE",
    "Advice",
    "BadFlags",
    "BadMachine",
    "BadRange",
    "CommitRefused",
    "Config",
    "Faults",
    "File",
    "ForkWork",
    "Kind",
    "Machine",
    "Map",
    "ModelError",
    "NoSuchProcess",
    "OutOfFrames",
    "Pages",
    "Process",
    "Prot",
    "Rss",
    "Segfault",
    "WouldBlock",
]
