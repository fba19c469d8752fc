"""What the C core offers to Python; one section for each topic file."""

from typing import Any

# launch.c
def probe_call(name: str, size: int, /) -> bool: ...
def launch(
    shown: object,
    paths: tuple[bytes, ...],
    argv: tuple[bytes, ...],
    env: tuple[bytes, ...],
    cwd: bytes | None,
    stdin: int,
    stdout: int,
    stderr: int,
    keep: tuple[int, ...],
    cgroup: int,
    new_session: bool,
    /,
) -> tuple[int, int]: ...

# interpose.c, extents.c, guard.c: madvise and mremap on image pages
def interpose(guards: int, most_mappings: int, /) -> dict[str, Any]:
    """Redirect the guarded calls (1: madvise, 2: mremap) of every object loaded now, and treat all
    memory as possibly image until `image_extents_refresh`. Returns `objects` seen, `slots` patched by
    name, and how many the kernel `refused`. `most_mappings` is vm.max_map_count."""

def interpose_keep() -> list[tuple[int, int]]: ...
def image_extents_refresh() -> int: ...
def image_extents() -> list[tuple[int, int]]: ...
def guard_counts() -> dict[str, int]: ...
def mappings_read_as_text(flag: bool, /) -> None: ...

# freeze.c: the image, and what goes before it
def freeze(
    *,
    page: int,
    block: int,
    huge: bool,
    compact: bool,
    gap: int,
    keep: list[tuple[int, int]],
    reserve: bool,
    numa: bool,
    max_vmas: int,
    stop: bool,
    fence: bool,
) -> dict[str, Any]: ...
def try_stop() -> tuple[int, str] | None: ...
def quiesce() -> None: ...
def collapse(page: int, block: int, /) -> tuple[int, int]: ...
