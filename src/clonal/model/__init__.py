"""A page-exact model of the kernel's copy-on-write memory management: pure, without system calls.

README.md beside this file teaches what it models.
"""

from clonal.model.cgroup import Group
from clonal.model.errors import (
    BadFlags,
    BadMachine,
    BadPolicy,
    BadRange,
    CommitRefused,
    GroupFull,
    ModelError,
    NoSuchProcess,
    OutOfFrames,
    Segfault,
    Unmodelled,
    WouldBlock,
)
from clonal.model.faults import Faults
from clonal.model.files import File
from clonal.model.flags import HUGE, PAGE, Advice, Clone, Config, Kind, Map, Prot
from clonal.model.fork import ForkWork
from clonal.model.machine import Machine
from clonal.model.numa import Mode, Policy
from clonal.model.pin import Pin
from clonal.model.process import Pages, Process, Rss

__all__ = [
    "HUGE",
    "PAGE",
    "Advice",
    "BadFlags",
    "BadMachine",
    "BadPolicy",
    "BadRange",
    "Clone",
    "CommitRefused",
    "Config",
    "Faults",
    "File",
    "ForkWork",
    "Group",
    "GroupFull",
    "Kind",
    "Machine",
    "Map",
    "Mode",
    "ModelError",
    "NoSuchProcess",
    "OutOfFrames",
    "Pages",
    "Pin",
    "Policy",
    "Process",
    "Prot",
    "Rss",
    "Segfault",
    "Unmodelled",
    "WouldBlock",
]
