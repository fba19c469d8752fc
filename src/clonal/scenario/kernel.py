"""The real kernel as a machine that runs scenarios: each process is a puppet."""

from __future__ import annotations

import errno
import mmap
import os
import select

from clonal.kernel import memory
from clonal.scenario.backing import Backing
from clonal.scenario.lens import Lens, committed_pages
from clonal.scenario.observation import Observation, Outcome
from clonal.scenario.pages import Pages
from clonal.scenario.puppet import Answer, Op, Puppet, Stage
from clonal.scenario.runner import Region, Runner

_PROTS = {"none": 0, "r": 1, "rw": 3, "rx": 5, "rwx": 7}
_ADVICE = {  # include/uapi/asm-generic/mman-common.h
    "dontneed": 4,
    "free": 8,
    "dontfork": 10,
    "dofork": 11,
    "hugepage": 14,
    "nohugepage": 15,
    "wipeonfork": 18,
    "keeponfork": 19,
    "populate_read": 22,
    "populate_write": 23,
    "collapse": 25,
}
_FIXED = 0x100000  # MAP_FIXED_NOREPLACE
_NORESERVE = 0x4000
_MAYMOVE_FIXED = 3
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_FLAGS = {
    "anon": _ANONYMOUS,
    "thp": _ANONYMOUS,
    "guard": _ANONYMOUS,
    "noreserve": _ANONYMOUS | _NORESERVE,
    "file": mmap.MAP_PRIVATE,
    "memfd-image": mmap.MAP_PRIVATE,
    "shared": mmap.MAP_SHARED | mmap.MAP_ANONYMOUS,
    "shared-file": mmap.MAP_SHARED,
}
_OPS = {
    "munmap": Op.MUNMAP,
    "mprotect": Op.MPROTECT,
    "madvise": Op.MADVISE,
    "mlock": Op.MLOCK,
    "munlock": Op.MUNLOCK,
}


class KernelRunner(Runner):
    """Runs scenarios on this kernel. All puppets share one CPU: a page that another CPU has yet to put
    on the LRU list has a reference more, and the kernel then copies where it would reuse
    (mm/memory.c wp_can_reuse_anon_folio, 6.18)."""

    def __init__(self, cpu: int | None = None) -> None:
        super().__init__()
        self._puppets: dict[str, Puppet] = {}
        self._lenses: dict[str, Lens] = {}
        self._asleep: dict[str, str] = {}  # the parent of a vforked child by the child
        self._backing = Backing()
        self._stage = Stage()
        try:
            os.sched_setaffinity(self._stage.pid, {min(os.sched_getaffinity(0)) if cpu is None else cpu})
            self._frames_shown, self._overhead = self._look_at_an_empty_one()
        except BaseException:
            self._stage.close()
            raise

    def _look_at_an_empty_one(self) -> tuple[bool, int]:
        """Whether the kernel shows frames, and the page tables that every puppet needs for itself."""
        puppet = self._stage.spawn()
        try:
            lens = Lens(puppet.pid, 0)
            try:
                return lens.frames_shown(), lens.page_tables()
            finally:
                lens.close()
        finally:
            puppet.kill()
            self._stage.reap()

    @property
    def overcommit(self) -> int:
        return memory.overcommit_mode()

    @property
    def frames_shown(self) -> bool:
        """Whether this user may see page frame numbers (CAP_SYS_ADMIN)."""
        return self._frames_shown

    def reset(self) -> None:
        self._end_all()
        self._stage.reap()
        self._backing.close()
        super().reset()

    def close(self) -> None:
        self._end_all()
        self._backing.close()
        self._stage.close()

    def pid(self, process: str) -> int:
        """The pid of a living process of the scenario."""
        return self._puppets[process].pid

    def bury_the_killed(self, patience: float = 0) -> list[str]:
        """Forgets the processes that something else has killed; which. Waits up to `patience` seconds for the
        first."""
        living = {self._puppets[who].pidfd: who for who in self._regions}
        ready, _, _ = select.select(list(living), [], [], patience)
        for pidfd in ready:
            self._gone(living[pidfd])
            self._bury(living[pidfd])
        return [living[pidfd] for pidfd in ready]

    def _end_all(self) -> None:
        """The youngest first: a vforked child before its parent."""
        for who in reversed(list(self._puppets)):
            self._puppets.pop(who).kill()
        for lens in self._lenses.values():
            lens.close()
        self._lenses.clear()
        self._asleep.clear()

    def _spawn(self, who: str) -> None:
        self._meet(who, self._stage.spawn())

    def _meet(self, who: str, puppet: Puppet) -> None:
        self._puppets[who] = puppet
        self._lenses[who] = Lens(puppet.pid, self._overhead)

    def _map(self, who: str, region: Region) -> Outcome:
        puppet = self._puppets[who]
        flags = _FLAGS[region.kind] | _FIXED
        prot = 0 if region.kind == "guard" else 3
        fd = self._file(region)
        answer = puppet.call(Op.MMAP, region.address, region.length, prot, flags, -1, 0, fd=fd)
        if answer.result >= 0:
            advice = _ADVICE["hugepage" if region.kind == "thp" else "nohugepage"]
            if region.kind in ("anon", "thp", "noreserve"):
                puppet.call(Op.MADVISE, region.address, region.length, advice)
        return self._outcome(answer)

    def _file(self, region: Region) -> int | None:
        if region.kind == "file":
            return self._backing.file(region.file, region.pages)
        if region.kind in ("memfd-image", "shared-file"):
            return self._backing.memfd(region.file, region.pages)
        return None

    def _call(self, who: str, call: str, address: int, length: int, *args: str) -> Outcome:
        words = [(_PROTS if call == "mprotect" else _ADVICE)[word] for word in args]
        return self._outcome(self._puppets[who].call(_OPS[call], address, length, *words))

    def _mremap(self, who: str, old: Region, new: Region) -> Outcome:
        args = (old.address, old.length, new.length, _MAYMOVE_FIXED, new.address)
        return self._outcome(self._puppets[who].call(Op.MREMAP, *args))

    def _touch(self, who: str, region: Region, pages: Pages, write: bool) -> Outcome:
        puppet = self._puppets[who]
        self._stage.drain()
        answer = puppet.touch(Op.WRITE if write else Op.READ, region.address, pages.ranges)
        if answer.signal:
            puppet.await_end()
            self._gone(who)
            return Outcome("SIGSEGV")
        return self._outcome(answer)

    def _outcome(self, answer: Answer) -> Outcome:
        result = errno.errorcode[-answer.result] if answer.result < 0 else "ok"
        return Outcome(result, answer.minor)

    def _fork(self, who: str, child: str) -> Outcome:
        try:
            self._meet(child, self._puppets[who].spawn())
        except OSError as error:
            return Outcome(errno.errorcode[error.errno or 0])
        return Outcome()

    def _vfork(self, who: str, child: str) -> Outcome:
        self._meet(child, self._puppets[who].spawn(Op.VFORK))
        self._asleep[child] = who
        return Outcome()

    def _exec(self, who: str) -> Outcome:
        puppet = self._puppets[who]
        puppet.send(Op.EXEC)
        puppet.hear()
        self._lenses.pop(who).close()
        self._wake(who)
        self._lenses[who] = Lens(puppet.pid, None)
        return Outcome()

    def _exit(self, who: str, status: int) -> Outcome:
        self._puppets[who].exit(status)
        self._gone(who)
        return Outcome()

    def _gone(self, who: str) -> None:
        self._lenses.pop(who).close()
        self._wake(who)
        self._puppets[who].close()

    def _wake(self, child: str) -> None:
        """The parent of a vforked child goes on, and only now answers."""
        if parent := self._asleep.pop(child, None):
            self._puppets[parent].hear()
            for lens in self._lenses.values():  # a signal takes stack, which a vforked child has in common
                lens.look_outside()

    def _wait(self, who: str, child: str) -> Outcome:
        answer = self._puppets[who].call(Op.WAIT, self._puppets[child].pid)
        return Outcome(self._outcome(answer).result)

    def _committed(self) -> int:
        return committed_pages()

    def _observe(
        self, outcome: Outcome, regions: dict[str, dict[str, Region]], committed: int
    ) -> Observation:
        views = {who: self._lenses[who].view(named, self._backing.on_tmpfs) for who, named in regions.items()}
        return Observation(outcome, views, committed, self._frames_shown)
