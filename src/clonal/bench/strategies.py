"""What is compared: every way a Python program can get work done in another process, and without.

A strategy is data; `launchers.py` says how its child is made. `inherits` tells whether the child has
the parent's heap: the others have to build it again or do without.
"""

from __future__ import annotations

from dataclasses import dataclass

HUGE_OFF = "off (PR_SET_THP_DISABLE)"
HUGE_SYSTEM = "as the system has it"


@dataclass(frozen=True)
class Strategy:
    name: str
    title: str
    launcher: str
    what: str
    thp: str = HUGE_OFF
    inherits: bool = True
    process: bool = True
    slow_start: bool = False  # the child builds the heap anew: fewer rounds
    freeze: bool = False
    immortal: bool = False
    standby: int = 0

    @property
    def ops(self) -> tuple[str, ...]:
        """The work its children are measured with."""
        if not self.inherits:
            return ("nothing",)
        if self.slow_start:
            return ("nothing", "read_all")
        return ("nothing", "read_all", "write_5", "write_all")


_ALL = (
    Strategy(
        "eager",
        "eager copy",
        "eager",
        "fork, then every page copied before the call returns",
    ),
    Strategy("fork", "os.fork", "fork", "os.fork after gc.freeze(), 4 KiB pages"),
    Strategy(
        "fork-thp",
        "os.fork, THP",
        "thp",
        "os.fork of a heap in huge pages",
        thp="on (MADV_COLLAPSE)",
    ),
    Strategy(
        "fork-exec",
        "fork + exec",
        "fork-exec",
        "os.fork, then a minimal C program",
        inherits=False,
    ),
    Strategy("launch", "clonal.launch", "launch", "vfork + exec by clone3", inherits=False),
    Strategy(
        "subprocess",
        "subprocess",
        "subprocess",
        "subprocess.Popen (vfork)",
        inherits=False,
    ),
    Strategy("posix-spawn", "os.posix_spawn", "posix-spawn", "os.posix_spawn", inherits=False),
    Strategy(
        "spawn",
        "mp spawn",
        "spawn",
        "multiprocessing spawn; the child builds the heap",
        slow_start=True,
    ),
    Strategy(
        "forkserver",
        "mp forkserver",
        "forkserver",
        "multiprocessing forkserver with the heap preloaded",
    ),
    Strategy(
        "image",
        "image",
        "image",
        "os.fork after clonal.freeze(immortal=False)",
        HUGE_SYSTEM,
        freeze=True,
    ),
    Strategy(
        "image-immortal",
        "image + immortal",
        "image",
        "os.fork after clonal.freeze()",
        HUGE_SYSTEM,
        freeze=True,
        immortal=True,
    ),
    Strategy("clone", "template clone", "clone", "Template.clone(), on demand", HUGE_SYSTEM),
    Strategy(
        "standby",
        "standby clone",
        "clone",
        "Template(standby=4).clone()",
        HUGE_SYSTEM,
        standby=4,
    ),
    Strategy(
        "thread",
        "thread",
        "thread",
        "threading.Thread: no process, nothing isolated",
        process=False,
    ),
    Strategy(
        "task",
        "asyncio task",
        "task",
        "asyncio task: no process, nothing isolated",
        process=False,
    ),
)

STRATEGIES = {strategy.name: strategy for strategy in _ALL}
FLOOR = "floor"  # the minimal C program: no subject of ours, see floor.py
ARTICLE = "article"  # the article's own script, see article.py
NAMES = (*STRATEGIES, FLOOR, ARTICLE)
