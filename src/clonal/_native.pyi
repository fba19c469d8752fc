"""What the C core offers to Python; one section for each topic file."""

# launch.c
def probe_call(name: str, /) -> bool: ...
