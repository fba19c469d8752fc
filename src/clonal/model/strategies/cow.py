"""Copy-on-write as Linux has it: entries are copied at fork, pages when they are written."""

from __future__ import annotations

from clonal.model.process import Process
from clonal.model.strategies.base import Born, Strategy, forked


class Cow(Strategy):
    """fork(2) of Linux 6.18."""

    name = "cow"

    def fork(self, parent: Process) -> Born:
        return Born(*forked(parent))
