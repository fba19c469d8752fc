"""What the C core offers to Python; one section for each topic file."""

# launch.c
def probe_call(name: str, /) -> bool: ...
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
