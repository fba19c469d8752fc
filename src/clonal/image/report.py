"""What a freeze did: printed, or as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

# Index = enum keep_reason of _native/vma.h.
REASONS = (
    "",
    "shared memory (fork never copies it)",
    "kernel pages (vdso)",
    "running stacks",
    "executable memory",
    "unreadable memory",
    "locked memory (mlock)",
    "memory that clones do not get (MADV_DONTFORK)",
    "memory that clones see as zeroes (MADV_WIPEONFORK)",
    "sealed memory (mseal)",
    "shadow stacks",
    "droppable memory",
    "device memory",
    "hugetlb pages",
    "memory under userfaultfd",
    "thread-local storage and always-written pages",
    "guard pages",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """Private memory that was left as it was: `bytes` of it, and why."""

    reason: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One memory file of frozen pages: `file_bytes` in it, of which `mapped_bytes` are still mapped here."""

    inode: int
    file_bytes: int
    mapped_bytes: int

    @property
    def superseded_bytes(self) -> int:
        """What this process no longer maps of it."""
        return max(0, self.file_bytes - self.mapped_bytes)


@dataclass(slots=True)
class FreezeReport:
    """What `freeze()` did. Sizes in bytes, times in seconds.

    `degraded` says what was not possible here and what was used instead; `kept` what private memory
    stays as it was and why. `old_generations` are the memory files of earlier freezes that are
    still in use; what they hold beyond `mapped_bytes` cannot be given back before the last process
    that maps them ends.
    """

    bytes_imaged: int = 0
    huge_bytes: int = 0
    vmas_before: int = 0
    vmas_after: int = 0
    immortal_objects: int = 0
    finaliser_types: dict[str, int] = field(default_factory=dict)
    hashes_computed: int = 0
    pools_detached: int = 0
    seconds: float = 0.0
    peak_extra_bytes: int = 0
    threads_stopped: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    kept_objects: list[str] = field(default_factory=list)
    hot: dict[str, int] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    generation: int = 0
    old_generations: list[Generation] = field(default_factory=list)

    @property
    def huge_coverage(self) -> float:
        """Share of the imaged bytes that are in huge pages, 0 to 1."""
        return self.huge_bytes / self.bytes_imaged if self.bytes_imaged else 0.0

    @property
    def old_generation_bytes(self) -> int:
        """Memory that earlier generations hold."""
        return sum(generation.file_bytes for generation in self.old_generations)

    @property
    def superseded_bytes(self) -> int:
        """Memory of earlier generations that this process no longer maps."""
        return sum(generation.superseded_bytes for generation in self.old_generations)

    def to_json(self) -> str:
        """All fields and the derived ones, as one JSON object."""
        import json  # a module that most templates need not carry

        derived = {
            "huge_coverage": round(self.huge_coverage, 4),
            "old_generation_bytes": self.old_generation_bytes,
            "superseded_bytes": self.superseded_bytes,
        }
        return json.dumps(asdict(self) | derived)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        lines = [
            f"frozen: {_mb(self.bytes_imaged)} in an image ({self.huge_coverage:.0%} in huge pages), "
            f"{self.vmas_before} → {self.vmas_after} VMAs, {self.seconds:.2f} s, "
            f"peak {_mb(self.peak_extra_bytes)} extra",
            f"immortal: {self.immortal_objects:,} objects{_finalisers(self.finaliser_types)}",
        ]
        if self.threads_stopped:
            lines.append("stopped meanwhile: " + ", ".join(self.threads_stopped))
        if self.kept:
            lines.append("kept back: " + ", ".join(f"{_mb(k.bytes)} {k.reason}" for k in self.kept))
        lines += [f"kept back: {text}" for text in self.kept_objects]
        if self.hot:
            lines.append(
                "always written by a clone: " + ", ".join(f"{n} pages {why}" for why, n in self.hot.items())
            )
        if self.old_generations:
            lines.append(
                f"generation {self.generation}: older ones hold {_mb(self.old_generation_bytes)}, "
                f"{_mb(self.superseded_bytes)} of it superseded"
            )
        lines += [f"degraded: {text}" for text in self.degraded]
        return lines


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 100e6 else f"{size / 1e6:.0f} MB"


def _finalisers(types: dict[str, int]) -> str:
    if not types:
        return ""
    total = sum(types.values())
    top = sorted(types.items(), key=lambda item: -item[1])[:4]
    return f"; {total:,} with finalisers ({', '.join(f'{n} {name}' for name, n in top)})"
