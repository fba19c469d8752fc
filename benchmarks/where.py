"""Where a figure was measured, told below it."""

from __future__ import annotations

import sys

from clonal.kernel.machine import busy, machine, sentence


def tell() -> None:
    """The machine; to standard error, whether other work disturbs the times."""
    print(sentence(machine()))
    if (why := busy()) is not None:
        print(f"warning: {why}", file=sys.stderr)
