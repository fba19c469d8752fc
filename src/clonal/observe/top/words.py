"""What stands above the members, in lines of any width, and sparklines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clonal.observe.table import short
from clonal.observe.top.sampler import Sample
from clonal.observe.top.strain import Strain

BARS = "▁▂▃▄▅▆▇█"


def who(sample: Sample, pid: int | None) -> str:
    """What is watched, in some words."""
    rows = sample.rows
    if not rows:
        return f"process {pid} and all below it have ended" if pid else "no family of forked processes"
    families = len({row.root for row in rows})
    if pid is None or families > 1:
        words = "1 family" if families == 1 else f"{families:,} families"
        return f"{words}, {len(rows):,} processes"
    alone = rows[0].member.title
    return alone if len(rows) == 1 else f"{alone} and {len(rows) - 1} more"


def strain_words(strain: Strain) -> list[str]:
    """The strain on the machine, piece by piece."""
    pieces = [f"{short(strain.available)} of {short(strain.total)} available"]
    if strain.some is not None:
        pieces.append(f"PSI some {strain.some:.1f} % full {strain.full or 0:.1f} %")
    left = strain.commit_left
    room = f"{short(left)} left of" if left >= 0 else f"{short(-left)} above"
    held = "" if strain.overcommit == 2 else ", not enforced"
    pieces.append(f"commit {room} {short(strain.commit_limit)} (mode {strain.overcommit}{held})")
    if strain.group is not None:
        pieces.append(f"cgroup {strain.group} {short(strain.group_used)} of {short(strain.group_limit)}")
    return pieces


def packed(pieces: Iterable[str], width: int) -> list[str]:
    """Lines of as many pieces as fit."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 3 + len(piece) <= width:
            lines[-1] += f" · {piece}"
        else:
            lines.append(piece[:width])
    return lines


def sparkline(values: Sequence[float], width: int, least: float | None = 0.0) -> str:
    """The last values as bars, from `least` (None: the smallest of them) to the largest."""
    shown = list(values)[-width:] if width > 0 else []
    if not shown:
        return ""
    low = min(shown) if least is None else least
    span = max(shown) - low
    top = len(BARS) - 1
    return "".join(BARS[round((value - low) / span * top) if span > 0 else 0] for value in shown)
