"""The mutation check: whatever rule of the model is broken, one of its tests fails.

tests/conformance/test_model_mutants.py breaks rules that only the kernel can be asked about.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from clonal.model import collapse, commit, faults, fork, huge, numa, oom, tlb, undo
from clonal.model.banks import Banks
from clonal.model.cgroup import Ledger
from clonal.model.files import File
from clonal.model.frames import Folio, Frames
from clonal.model.machine import Machine
from clonal.model.placement import Placed
from clonal.model.process import Process
from clonal.model.space import AddressSpace
from clonal.model.strategies import Eager, Vfork
from clonal.model.tables import Tables
from clonal.model.tlb import Tlb
from clonal.model.vma import Vma
from tests.mutation import Case, Mutant, cases
from tests.unit import (
    test_model_calls,
    test_model_cgroup,
    test_model_commit,
    test_model_huge,
    test_model_numa,
    test_model_oom,
    test_model_pages,
    test_model_shortage,
    test_model_strategies,
    test_model_tlb,
)

pytestmark = pytest.mark.newest

M = Mutant

FORK = [
    M("entries of all mappings are copied", fork._is_copied, "bool(vma.anon_vma) and not", "not"),
    M("DONTFORK is ignored", fork.duplicate, "if vma.dont_fork:", "if False:"),
    M("WIPEONFORK is ignored", fork._is_copied, " or vma.wipe_on_fork", ""),
    M("the parent may go on writing", fork._copy_entries, "vma.writable &= held", "pass"),
    M("the child may write", fork._copy_entries, "np.zeros(vma.pages, bool)", "np.ones(vma.pages, bool)"),
    M("pages stay exclusive", fork._copy_entries, "Kind.ANON]] = False", "Kind.ANON]] |= False"),
    M("the child's entries do not count", fork._copy_entries, "present & ~held & small", "present & False"),
    M("pinned pages are shared", fork._held, "held[:] = (vma", "held[:] = False & (vma"),
    M("a huge page with a pinned one stays whole", fork._held, "if held[block", "if False and held[block"),
    M("the child has no page tables", fork._make_tables, "child.tables.become(found)", "pass"),
    M("the child has no huge pages", fork._copy_huge, "child.tables.huge.update(blocks)", "pass"),
    M("huge pages do not count", fork._copy_huge, "if frame != ZERO_FRAME:", "if False:"),
    M("locks are inherited", fork._copy_entries, "locked=False", "locked=vma.locked"),
    M("the end of the heap is not inherited", fork.duplicate, "child.brk = parent.brk", "pass"),
    M("the anon_vma of the wiped is inherited", fork.duplicate, "anon_vma=0", "anon_vma=1"),
]

WRITE = [
    M("the last sharer copies", Frames.alone, "self.mapped[frames] == 1", "self.mapped[frames] == 0"),
    M("one of two reuses", Frames.alone, "self.mapped[frames] == 1", "self.mapped[frames] <= 2"),
    M("a file's page is reused", faults._write_present, "(frames.kind[old] == Kind.ANON) & ", ""),
    M("the writer keeps the old page too", faults._write_present, "frames.unmap(old[copy], space)", "pass"),
    M("a reused page is not exclusive", faults._write_present, "frames.exclusive[old[reuse]] = True", "pass"),
    M("the zero page is copied", faults._write_present, "old == ZERO_FRAME", "old == -2"),
    M("shared memory is copied", faults._write_present, "if vma.shared:", "if False:"),
    M("pages of huge ones were always reused", faults._touch_small, "(6, 15)", "(6, 12)"),
    M("pages of huge ones are never reused", faults._touch_small, "(6, 15)", "(9, 0)"),
    M("a private write makes no anon_vma", faults._own, "space.prepare_anon_vma(vma)", "pass"),
    M("a new page is not exclusive", faults._own, "space.frames.exclusive[frames] = True", "pass"),
]

FIRST_TOUCH = [
    M("a read takes a frame", faults._read, "vma.file is None and not vma.shared", "False"),
    M("a private write to a file is zero-filled", faults._write_absent,
      "if vma.file is not None:", "if False:"),
    M("a private write to a file reads nothing", faults._write_absent,
      "_load(vma, index)\n        _own", "0; _own"),
    M("a write to shared memory copies", faults._write_absent, "if vma.shared:", "if False:"),
    M("windows do not end with the mapping", faults._windows, "(near < vma.end) & ", ""),
    M("windows reach over page tables", faults._windows, "near < table_end", "near < table_end + 99"),
    M("windows begin before the mapping", faults._windows, "np.maximum(pages // around * around, vma.start)",
      "pages // around * around"),
    M("nothing is a major fault", faults._load, "loaded if vma.file.kind is Kind.FILE else 0", "0"),
    M("shared memory that was read faults again", faults._map_cached, "is Kind.SHMEM", "is Kind.ANON"),
    M("a write to a file goes unnoticed", faults._map_cached, "and vma.file.kind is Kind.SHMEM", ""),
    M("what was read is read again", File.load, "self.frame[pages] == NO_FRAME", "self.frame[pages] != -2"),
]  # fmt: skip

TABLES = [
    M("only the lowest level counts", Tables.pages, "sum(map(len, self.at))", "len(self.at[0])"),
    M("tables take no frames", Frames.free, " - self.tables.pages", ""),
    M("tables are never freed", Tables.free, "have.discard(table)", "pass"),
    M("tables of neighbours are freed", Tables.free, "table * span >= floor and ", ""),
    M("tables of those behind are freed", Tables.free, " and (table + 1) * span <= ceiling", ""),
    M("DONTNEED frees no table", AddressSpace._reclaim, "self.tables.drop(table)", "pass"),
    M("DONTNEED always freed tables", AddressSpace._advise, "(6, 14)", "(6, 12)"),
    M("tables end with no process", AddressSpace.destroy, "self.tables.become(Tables())", "pass"),
    M("a move makes no tables", AddressSpace._move, "self.tables.move(start, old, to)", "pass"),
    M("a move needs no frames", AddressSpace._room_for_tables, "if more > 0:", "if False:"),
    M("an access needs no frames for tables", AddressSpace.reach, "if made :=", "if False and"),
    M("a fork needs no frames", fork._make_tables, "parent.frames.admit(held + found.pages)", "pass"),
    M("an access that fails is left half done", undo.undone_if_full, "before.restore()", "pass"),
]

HUGE = [
    M("all private memory gets huge pages", huge.wanted, " and vma.hugepage is True", ""),
    M("NOHUGEPAGE is ignored", huge.wanted, " or vma.hugepage is False", ""),
    M("files get huge pages", huge.wanted, "vma.file is not None or ", ""),
    M("always means never", huge.wanted, 'config.thp == "always" or ', ""),
    M("huge pages reach out of mappings", huge._fault, "vma.start <= start <= vma.end - HUGE", "True"),
    M("a table is no hindrance", huge._fault, " or block in space.tables.at[0]", ""),
    M("a read makes no huge zero page", huge._fault, "if write and", "if not write or"),
    M("there is no other way than a huge page", huge._fault, "space.frames.room < HUGE", "False"),
    M("one that nobody shares is split", huge._write,
      "space.frames.exclusive[frame] or space.frames.folio(frame).mappings == 1", "False"),
    M("one that others have is reused", huge._write,
      "space.frames.exclusive[frame] or space.frames.folio(frame).mappings == 1", "True"),
    M("the huge zero page was always filled", huge._write, "(6, 13)", "(6, 12)"),
    M("a split counts no entries", huge.split, "space.frames.split_entry(frame, space)", "pass"),
    M("a hole in one leaves it whole", huge.split_at, "split(space, vma, block)", "pass"),
    M("zapping keeps the reserve", huge.zap, "space.tables.drop(block)", "space.tables.huge.discard(block)"),
    M("one moves whole to anywhere", huge.move, "if within:", "if False:"),
    M("one is split by any move", huge.move, "if within:", "if True:"),
    M("its frames are freed one by one", Frames.unmap, "gone &= self.head[real] == 0", "pass"),
    M("its frames are never free", Frames._free_unused, "not folio.mappings and not folio.pins", "False"),
    M("collapse shares", collapse._block, "space.frames.unmap(present, space)", "pass"),
    M("collapse makes what is not exclusive", collapse._block, "space.frames.exclusive[new] = True", "pass"),
    M("collapse needs nothing written", collapse.collapse, "not vma.anon_vma or ", ""),
]  # fmt: skip

COMMIT = [
    M("what is only read counts", commit.accountable, "bool(prot & Prot.WRITE) and ", ""),
    M("shared mappings count", commit.accountable, "not flags & Map.SHARED and ", ""),
    M("NORESERVE counts", commit.accountable, " and not spared", ""),
    M("mode 2 heeds NORESERVE", commit.accountable, " and config.overcommit != NEVER", ""),
    M("only what was touched counts", AddressSpace.commit, "vma.pages", "int((vma.frame >= 0).sum())"),
    M("shared anonymous memory counts as touched", File.committed, "if self.ahead:", "if False:"),
    M("memory files do not count", File.committed, "if self.kind is Kind.SHMEM", "if False"),
    M("what may no longer be written counts no more", Process._accounts,
      "vma.accounted and (vma.file is not None or vma.anon_vma != 0)", "False"),
    M("what may no longer be written counts on", Process._accounts,
      " and (vma.file is not None or vma.anon_vma != 0)", ""),
    M("what may be written from now on is free", Process._accounts, "counts and not vma.accounted", "False"),
    M("fork is free", Process.fork, "if vma.accounted and not vma.dont_fork:", "if False:"),
    M("fork charges DONTFORK", Process.fork, " and not vma.dont_fork", ""),
    M("fork does not charge WIPEONFORK", Process.fork, "vma.dont_fork:", "vma.dont_fork | vma.wipe_on_fork:"),
    M("fork charges all at once", Process.fork, "promise(vma.pages,", "promise(vma.pages + promised,"),
    M("fork forgets what it charged before", Process.fork, "promised += vma.pages", "pass"),
    M("vfork is charged", Machine.committed, "{id(p.space): p.space", "{p.pid: p.space"),
    M("what grows by a move is free", Process.mremap, "if vma is not None and vma.accounted", "if False"),
]  # fmt: skip

OVERCOMMIT = [
    M("mode 0 adds up", Machine.promise,
      " if self.config.overcommit == NEVER else 0", "; pages += committed"),
    M("mode 0 keeps a page", commit.check, "if pages > most:", "if pages >= most:"),
    M("mode 0 does not count on swap", commit.check, "(config.ram + config.swap)", "config.ram"),
    M("mode 1 refuses", commit.check, "elif config.overcommit == NEVER:", "else:"),
    M("mode 2 commits all memory", commit.commit_limit, " * config.overcommit_ratio // 100", ""),
    M("mode 2 does not count on swap", commit.commit_limit, " + config.swap // PAGE", ""),
    M("mode 2 gives the last page", commit.check, ">= allowed", "> allowed"),
    M("mode 2 keeps nothing for root", commit.check, "if not config.admin:", "if False:"),
    M("mode 2 keeps it from root too", commit.check, "if not config.admin:", "if True:"),
    M("mode 2 keeps no way out", commit.check, "min(total_vm // 32, config.user_reserve // PAGE)", "0"),
    M("mode 2 keeps all of the way out", commit.check,
      "min(total_vm // 32, config.user_reserve // PAGE)", "config.user_reserve // PAGE"),
]  # fmt: skip

OOM = [
    M("shares count, not pages", oom.points_of, "sum(process.rss)", "int(process.pss()) // PAGE"),
    M("only anonymous pages count", oom.points_of, "sum(process.rss)", "process.rss.anon"),
    M("page tables do not count", oom.badness, " + table_bytes // PAGE", ""),
    M("what is swapped out does not count", oom.badness, " + swapped", ""),
    M("adjustments are in pages", oom.badness, "(total // 1000)", "1"),
    M("the total is exact", oom.badness, "adjustment * (total // 1000)", "adjustment * total // 1000"),
    M("nobody is immune", oom.badness, "adjustment == IMMUNE", "False"),
    M("a borrower is not spared", oom.points_of, "if process.borrows:", "if False:"),
    M("of equals the first is taken", oom.victim, "points >= most", "points > most"),
    M("the score is of a thousand", oom.score, " * 2 / 3", ""),
    M("the score rounds down", oom.score, "abs(points) * 1000 // total * (-1 if points < 0 else 1)",
      "points * 1000 // total"),
    M("those who share the memory live", Machine.kill_for_memory,
      "process.space is space", "process is taken"),
    M("the immune who share it die", Machine.kill_for_memory, "process.oom_score_adj != oom.IMMUNE", "True"),
    M("anybody is killed for a group", Machine.kill_for_memory, "each.group.within(group)", "True"),
    M("a group's points are of all memory", Machine._oom_total, "group is None or", "True or"),
    M("swap is not memory", Machine._oom_total, " + self.config.swap // PAGE", ""),
    M("adjustments are not inherited", Process.__init__, "parent.oom_score_adj if", "0 if"),
]  # fmt: skip

NUMA = [
    M("the mapping's policy does not matter", numa.effective,
      "if mapping.mode is Mode.DEFAULT else mapping", ""),
    M("the task's policy does not matter", numa.effective, "task if", "mapping if"),
    M("a task's policy is not inherited", Process.__init__,
      "(parent.cpu, parent.policy)", "(parent.cpu, DEFAULT)"),
    M("a CPU is not inherited", Process.__init__, "(parent.cpu, parent.policy)", "(0, parent.policy)"),
    M("a mapping's policy is not inherited", fork._copy_entries, "inherited=True,",
      "inherited=True, policy=type(vma.policy)(),"),
    M("memory is on the first node", Process._run, "self.group, self.node,", "self.group, 0,"),
    M("PREFERRED is local", numa.allowed,
      "fallback(distances, policy.nodes[0])", "fallback(distances, node)"),
    M("BIND gives in", numa.place, " if policy.mode is Mode.BIND else fallback(table, aim)",
      " if False else fallback(table, aim)"),
    M("interleaving goes by turns", numa.wanted, "[offsets % len", "[np.arange(offsets.size) % len"),
    M("a full node is replaced by number", numa.fallback, "distances[node][other] + (other < node)", "0"),
    M("of equals the first replaces it", numa.fallback, " + (other < node)", ""),
    M("frames change their node", Banks.give, "self._freed[node].append", "self._freed[0].append"),
    M("huge pages lie on several nodes", Frames.allocate_huge, "np.full(HUGE, offset)", "np.arange(HUGE)"),
    M("mbind is for all of a mapping", Placed.mbind, "*page_range(address, length)", "0, 1 << 35"),
    M("policies do not keep mappings apart", Vma._alike, ", self.policy", ""),
]  # fmt: skip

SHARED_LIVES = [
    M("a borrower has no part in the memory", Process.vfork, "self.space.users += 1", "pass"),
    M("a vforked child does not borrow", Process.vfork, "child.borrows = True", "pass"),
    M("CLONE_VM alone is vfork", Process.clone3, "bool(flags & Clone.VFORK)", "True"),
    M("exec gives nothing back", Process.exec, "False", "True"),
    M("exec keeps the old memory", Process.exec, "self._leave(old)", "pass"),
    M("a caller of vfork does not sleep", Vfork._check,
      "if child.exit_code is None and child.borrows:", "if False:"),
    M("exit frees nothing", Process._leave, "if not space.users:", "if False:"),
]  # fmt: skip

CALLS = [
    M("mlock touches nothing", Process.mlock, "write = bool(", "continue; write = bool("),
    M("locked memory may be dropped", AddressSpace._advise, "and vma.locked", "and False"),
    M("DONTNEED keeps pages", AddressSpace._advise, "self.zap(vma, start, end)", "pass"),
    M("POPULATE_WRITE reads", Process.madvise, "advice is Advice.POPULATE_WRITE", "False"),
    M("MAP_POPULATE is ignored", Process.mmap, "if flags & Map.POPULATE:", "if False:"),
    M("a file's order does not matter", Vma._goes_on_in, "self.offset + self.pages == after.offset", "True"),
    M("mappings never join", Vma.joins, "self.end == after.start", "False"),
    M("any anon_vma is taken over", Vma._may_share, "not (self.inherited or after.inherited)", "True"),
    M("different anon_vmas join", Vma._may_share, "self.anon_vma == after.anon_vma", "True"),
    M("neighbours have no anon_vma in common", AddressSpace.prepare_anon_vma, "None, lent", "None, []"),
    M("the last page of a huge one is reused", Folio.alone, "self.mappings > 1 and ", ""),
    M("a join forgets the anon_vma", Vma.join, "self.anon_vma = self.anon_vma or after.anon_vma", "pass"),
    M("mprotect makes shared pages writable", AddressSpace.mprotect,
      "own &= self.frames.exclusive[vma.frame]", "pass"),
    M("mprotect makes no page writable", AddressSpace.mprotect, "own &= self.frames.exclusive[vma.frame]",
      "own &= False"),
    M("protection is not checked", AddressSpace.check_access, " or not vma.prot & wanted", ""),
    M("pinned frames are freed", Frames.unmap, "if self.pinned.size:", "if False:"),
    M("a pin of a huge page is of one page", Frames.held, " | pinned[which]", ""),
]  # fmt: skip

CGROUPS = [
    M("the template pays for copies", Process._run, "self.group,", "(self.parent or self).group,"),
    M("a child is born in the root", Process.__init__, "parent.group if", "machine.frames.ledger.root if"),
    M("what is free is paid for", Ledger.uncharge, "-int(counts[number])", "0"),
    M("a limit above does not hold", Ledger.admit, "self.payer.upwards()", "[self.payer]"),
    M("a group does not pay for those below", Ledger._add, "group.upwards()", "[group]"),
    M("a group does not pay for tables", Machine._tables_of, "space.tables.bytes // PAGE", "0"),
    M("a limit is never reached", Ledger.admit, "charged + pages > group.limit", "False"),
    M("the last page of a limit is kept", Ledger.admit, "charged + pages > group.limit",
      "charged + pages >= group.limit"),
]  # fmt: skip

FLUSHES = [
    M("fork leaves TLBs alone", fork.duplicate, "parent.tlb.flush()", "pass"),
    M("fork flushes the child", fork.duplicate, "parent.tlb.flush()", "child.tlb.flush()"),
    M("a copy leaves TLBs alone", faults._write_present, "space.tlb.flush(replaced)", "pass"),
    M("a write flushes once", faults._write_present, "space.tlb.flush(replaced)", "space.tlb.flush()"),
    M("a reuse flushes", faults._write_present, "space.tlb.flush(replaced)", "space.tlb.flush(index.size)"),
    M("what becomes of the zero page is not flushed", faults._write_present, "space.tlb.flush(replaced)",
      "space.tlb.flush(replaced - zeroed)"),
    M("a new page flushes", faults._own, "vma.writable[index] = True",
      "vma.writable[index] = True; space.tlb.flush()"),
    M("a page of a file flushes", faults._map_cached, "vma.entries[index] = frames",
      "vma.entries[index] = frames; space.tlb.flush()"),
    M("an access that fails has flushed", undo.Before.restore, "self.space.tlb.flush(", "min("),
    M("calls flush nothing", Tlb.gathered, "self.flush()", "pass"),
    M("calls flush always", Tlb.gathered, "self.cleared or self.tables.freed != freed", "True"),
    M("tables go without a flush", Tlb.gathered, " or self.tables.freed != freed", ""),
    M("a call that fails flushes nothing", Tlb.gathered, "finally:", "except ZeroDivisionError:"),
    M("a call flushes what the last one did", Tlb.gathered, "self.cleared, freed = False,", "freed ="),
    M("the machine counts nothing", Tlb.flush, "self.frames.flushes += requests", "pass"),
    M("tables that go are not counted", Tables._counted, "max(before - self.pages, 0)", "0"),
    M("tables that are made are flushed", Tables._counted, "max(before - self.pages, 0)",
      "abs(before - self.pages)"),
    M("what is unmapped is not flushed", AddressSpace.zap, "self.tlb.cleared = True", "pass"),
    M("what moves is not flushed", AddressSpace._move, "bool((vma.frame != NO_FRAME).any())", "False"),
    M("a move of nothing is flushed", AddressSpace._move, "bool((vma.frame != NO_FRAME).any())", "True"),
    M("lazy freeing is not flushed", AddressSpace._free_lazily, "bool((frames > ZERO_FRAME).any())", "False"),
    M("lazy freeing flushes zero pages", AddressSpace._free_lazily, "self.tlb.cleared |= bool((frames > ZERO",
      "self.tlb.cleared |= bool((frames >= ZERO"),
    M("protections are not flushed", AddressSpace.mprotect, "needs_flush(vma, prot, writable)", "False"),
    M("protections are always flushed", AddressSpace.mprotect, "needs_flush(vma, prot, writable)", "True"),
    M("what nobody may touch is flushed", tlb.needs_flush, "if not vma.prot:", "if False:"),
    M("what nobody may touch now is not flushed", tlb.needs_flush, "not prot or ", ""),
    M("permission to execute is not flushed", tlb.needs_flush, " or (vma.prot ^ prot) & Prot.EXEC", ""),
    M("permission to write is flushed only if taken", tlb.needs_flush, "vma.writable != writable",
      "vma.writable & ~writable"),
    M("permission to write is flushed only if given", tlb.needs_flush, "vma.writable != writable",
      "writable & ~vma.writable"),
    M("a split is not flushed", huge.split, "space.tlb.flush()", "pass"),
    M("a huge zero page is filled unnoticed", huge._write, "space.tlb.flush()", "pass"),
    M("a collapse is not flushed", collapse._block, "space.tlb.flush()", "pass"),
    M("pages copied at once are flushed", Eager.fork, "child.space.tlb.flush(-child.tlb_flushes)", "pass"),
    M("an address space ends unflushed", AddressSpace.destroy, "with self.tlb.gathered():", "if True:"),
]  # fmt: skip

PAGES = [test_model_pages, test_model_calls, test_model_huge, test_model_shortage]
GROUPS: dict[str, tuple[list[Mutant], list[ModuleType]]] = {
    "fork": (FORK, PAGES),
    "write fault": (WRITE, PAGES),
    "first touch": (FIRST_TOUCH, PAGES),
    "page tables": (TABLES, [test_model_shortage, *PAGES]),
    "huge pages": (HUGE, [test_model_huge, test_model_shortage]),
    "commit": (COMMIT, [test_model_commit, test_model_pages, test_model_calls]),
    "overcommit": (OVERCOMMIT, [test_model_commit]),
    "out of memory": (OOM, [test_model_oom, test_model_cgroup]),
    "nodes": (NUMA, [test_model_numa]),
    "vfork and exec": (SHARED_LIVES, [test_model_pages, test_model_calls, test_model_oom,
                       test_model_strategies]),
    "calls": (CALLS, PAGES),
    "memory cgroups": (CGROUPS, [test_model_cgroup]),
    "flushes of TLBs": (FLUSHES, [test_model_tlb]),
}  # fmt: skip
SLOW = {
    "test_clones_copy_exactly_what_they_write",
    "test_whatever_was_refused_changed_nothing",
    "test_the_score_is_the_real_kernels",
    "test_a_fork_of_two_gigabytes_costs_an_image_as_little_as_one_of_nothing",
    "test_the_model_of_shared_tables_leaves_room_for_what_was_published",
}
ALL = [
    pytest.param(mutant, modules, id=f"{group}: {mutant.rule}")
    for group, (mutants, modules) in GROUPS.items()
    for mutant in mutants
]


def failing(modules: list[ModuleType]) -> Case | None:
    """The first test that fails."""
    every = (case for module in modules for case in cases(module) if case.name not in SLOW)
    return next((case for case in every if case.fails()), None)


@pytest.mark.parametrize(("mutant", "modules"), ALL)
def test_a_broken_rule_is_noticed(mutant: Mutant, modules: list[ModuleType]) -> None:
    with mutant.applied():
        found = failing(modules)
    assert found is not None, f"no test fails although {mutant.rule}"
    assert not found.fails(), f"{found.name} fails anyhow"
