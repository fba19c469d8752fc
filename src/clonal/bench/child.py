"""What a library's child is asked to call. It imports little: each library that a template has
loaded costs every fork five mappings."""

from __future__ import annotations

from clonal.bench.clock import Clock, Slot
from clonal.bench.heap import HEAP, Heap, warm
from clonal.bench.work import answer, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_clocks: dict[str, Clock] = {}


def call_in_child(page: str, work: str, gate: str | None, connection: Connection | None = None) -> None:
    """Notes its times, does `work`; the answer goes by `connection` where the library has no result."""
    clock = _clocks.get(page) or _clocks.setdefault(page, Clock(page))
    clock.stamp(Slot.FIRST)
    result = answer(warm())
    clock.stamp(Slot.ANSWER)
    if connection is not None:
        connection.send(result)
    child_work(clock, HEAP, work, gate)
    clock.stamp(Slot.EXIT)


def child_work(clock: Clock, heap: Heap, work: str, gate: str | None) -> None:
    """What every child does after its answer."""
    clock.stamp(Slot.BEGIN)
    op(work)(heap)
    clock.stamp(Slot.END)
    if gate is not None:
        from clonal.bench.gate import wait_at_gate

        wait_at_gate(gate)
