"""One function for each group of rows of figures.py; each returns the values and what they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import service
from memory import Peak, seconds_to_touch
from stand import MB, Samples, Stand, asking, calls, median, quantile, spread, summary, totals, usable

from clonal.bench.driver import Subject

OURS = "image-immortal"
LEAST = ["clonal.bench.nothing"]  # what a template must have loaded to be asked for nothing
FORKS = 15  # forks timed in a row, per round
TOUCHED = 6 << 30  # what the subjects of the freeze take, twice over
USE = ["read_all", "write:0.01"]
Row = tuple[str, float, dict[str, Any]]


def fork_of_a_big_heap(stand: Stand, _options: Any) -> Iterator[Row]:
    """Clones per second are a template's, eight at a time; beside it those of a process that froze itself."""
    specs = {name: stand.spec(name, 700 * MB) for name in ("fork", OURS, "clone")}
    with stand.subjects(specs) as subjects:
        own = {name: subjects[name] for name in ("fork", OURS)}
        forks = stand.interleave({name: asking(s, "forks", count=FORKS) for name, s in own.items()})
        yield _ratio("fork", forks, "fork", OURS)
        rates = stand.interleave({name: asking(s, "burst", seconds=0.3) for name, s in subjects.items()})
        middle = {name: median(samples) for name, samples in rates.items()}
        note = f"os.fork in a frozen process: {middle[OURS] / middle['fork']:.1f} ×"
        yield "rate", middle["clone"] / middle["fork"], _detail(rates, 1) | {"note": note}


def constant_time(stand: Stand, _options: Any) -> Iterator[Row]:
    """The template's fork, which makes clones; beside it os.fork in a process that froze itself. Three
    templates of each size: how a heap came to lie in memory is chance."""
    sizes = {f"{size >> 20} MB": size for size in (64 << 20, 2 << 30)}
    specs = {name: stand.spec("clone", size) for name, size in sizes.items()}
    forks: Samples = {name: [] for name in sizes}
    for _ in range(3):
        with stand.subjects(specs) as subjects:
            more = stand.interleave(_template_forks(subjects), rounds=-(-stand.rounds // 3))
        for name, samples in more.items():
            forks[name] += samples
    with stand.subjects({name: stand.spec(OURS, size) for name, size in sizes.items()}) as subjects:
        own = stand.interleave({name: asking(s, "forks", count=FORKS) for name, s in subjects.items()})
    small, big = sizes
    note = f"os.fork: {median(own[big]) / median(own[small]):.2f} ×"
    yield _ratio("constant", forks, big, small, note=note, os_fork=summary(own))


def distance_to_the_floor(stand: Stand, _options: Any) -> Iterator[Row]:
    """As above; the cost of a mapping is taken from processes that have a thousand more of them."""
    size = 1 << 20
    specs = {
        "bare": stand.spec("clone", size, preload=LEAST),
        "numpy": stand.spec("clone", size, preload=[*LEAST, "numpy"]),
        "os.fork, bare": stand.spec(OURS, size),
        "os.fork, numpy": stand.spec(OURS, size, imports=["numpy"]),
        "mappings": stand.spec("clone", size, preload=LEAST, mappings=1000),
    }
    with stand.floor() as floor, stand.subjects(specs) as subjects:
        asks = _template_forks({name: s for name, s in subjects.items() if "os.fork" not in name})
        for name in specs.keys() - asks.keys():
            asks[name] = asking(subjects[name], "forks", count=FORKS)
        forks = stand.interleave({"C": calls(floor, "fork", FORKS)} | asks)
        vmas = {name: subject.facts["mappings"] for name, subject in subjects.items()}
    middle = {name: median(samples) for name, samples in forks.items()}
    detail = _detail(forks) | {"vmas": vmas}
    for library in ("bare", "numpy"):
        note = f"os.fork in a frozen process: {middle[f'os.fork, {library}'] / middle['C']:.2f} ×"
        yield _ratio(f"floor-{library}", forks, library, "C", note=note, vmas=vmas)
    more = vmas["mappings"] - vmas["bare"]
    low = quantile(forks["mappings"], 0.1) - quantile(forks["bare"], 0.1)
    note = f"of the lowest tenths: {low / 1e3 / more:.2f} µs"
    value = (middle["mappings"] - middle["bare"]) / 1e3 / more
    yield "per-vma", value, detail | {"note": note}


def _template_forks(subjects: dict[str, Subject]) -> dict[str, Callable[[], list[Any]]]:
    return {name: asking(subject, "template_forks", count=FORKS) for name, subject in subjects.items()}


def next_generation(stand: Stand, _options: Any) -> Iterator[Row]:
    with stand.subjects({OURS: stand.spec(OURS, 500 * MB)}) as subjects:
        subject = subjects[OURS]
        forks = stand.interleave(
            {
                "template": asking(subject, "forks", count=FORKS),
                "as it is": asking(subject, "generation", count=FORKS, work=USE),
                "frozen again": asking(subject, "generation", count=FORKS, work=USE, again=True),
            },
            rounds=min(stand.rounds, 9),
        )
    as_it_is = median(forks["as it is"]) / median(forks["template"])
    note = f"frozen again, as by Template.here(); as it is {as_it_is:.2f} ×"
    yield _ratio("generation", forks, "frozen again", "template", note=note)


def round_trips(stand: Stand, _options: Any) -> Iterator[Row]:
    specs = {name: stand.spec(name, 64 << 20, preload=LEAST) for name in ("clone", "standby")}
    with stand.floor() as floor, stand.subjects(specs) as subjects:
        asks = {name: asking(s, "roundtrips", count=FORKS) for name, s in subjects.items()}
        trips = stand.interleave({"C": calls(floor, "roundtrip", FORKS)} | asks, rounds=stand.rounds * 2)
    yield _ratio("roundtrip", trips, "clone", "C")
    yield _ratio("standby", trips, "standby", "clone")


def reading_objects(stand: Stand, _options: Any) -> Iterator[Row]:
    size = 500 * MB
    specs = {name: stand.spec(name, size, 1.0) for name in ("fork", "image", OURS)}
    with stand.subjects(specs) as subjects:
        private = {name: subject.private("read_objects") for name, subject in subjects.items()}
        held = private[OURS]["private"]
        yield "private", 100 * held / size, {"private_and_page_tables_in_bytes": private}
        times = _reading(stand, subjects)
    yield _ratio("read-objects", times, OURS, "fork")


def reading_objects_old(stand: Stand, options: Any) -> Iterator[Row]:
    python = usable(options.python311, "3.11")
    specs = {name: stand.spec(name, 500 * MB, 1.0) for name in ("fork", "image")}
    with stand.subjects(specs, python) as subjects:
        times = _reading(stand, subjects)
    yield _ratio("read-objects-3.11", times, "image", "fork")


def _reading(stand: Stand, subjects: dict[str, Subject]) -> Samples:
    rounds = min(stand.rounds, 9)
    return stand.interleave({name: totals(s, "read_objects") for name, s in subjects.items()}, rounds)


def reading_buffers(stand: Stand, _options: Any) -> Iterator[Row]:
    specs = {name: stand.spec(name, 512 << 20, 0.0) for name in ("fork", OURS)}
    with stand.subjects(specs) as subjects:
        touched = stand.interleave({name: totals(s, "touch_buffers") for name, s in subjects.items()})
        scanned = stand.interleave({name: totals(s, "scan_buffers") for name, s in subjects.items()})
    whole = round(median(scanned[OURS]) / median(scanned["fork"]), 3)
    note = f"every byte read: {whole} ×"
    yield _ratio("read-buffers", touched, OURS, "fork", note=note, every_byte=summary(scanned))


def freezing(stand: Stand, _options: Any) -> Iterator[Row]:
    """Fresh subjects for each sample: a second freeze would be another thing. In memory that this machine has
    used before: what a virtual machine touches first its host has to find and clear."""
    found: dict[str, list[dict[str, float]]] = {"huge": [], "small": [], "immortal": []}
    specs = {
        "huge": stand.spec("image", 1000 * MB),
        "small": stand.spec("image", 1000 * MB, hugepages=False),
        "immortal": stand.spec(OURS, 1000 * MB),
    }
    stand.progress("using the machine's memory once")
    first, again = (seconds_to_touch(TOUCHED) / (TOUCHED / 1e9) for _ in range(2))
    for number in range(3):
        for name, spec in specs.items():
            stand.progress(f"freeze {number + 1}/3: {name}")
            found[name].append(_freeze(stand, spec))
    per_gb: Samples = {name: [one["seconds_per_gb"] for one in many] for name, many in found.items()}
    extra = max(one["extra_mb"] for name in ("huge", "small") for one in found[name])
    detail = {"samples": found, "spread": round(spread(per_gb), 3)}
    for name in ("huge", "small"):
        processor = median([one["cpu_seconds_per_gb"] for one in found[name]])
        note = f"CPU time {processor:.2f} s; to touch a GB: {first:.2f} s at first, {again:.2f} s again"
        yield f"freeze-{name}", median(per_gb[name]), detail | {"note": note}
    yield "freeze-memory", extra, detail


def _freeze(stand: Stand, spec: dict[str, Any]) -> dict[str, float]:
    with Subject(spec, stand.scratch) as subject:
        with Peak(subject.pid) as peak:
            subject.ask("build")
            peak.start()
            ready = subject.ask("ready")
            report = ready["freeze"]
            seen = peak.extra()
        gigabytes = report["bytes_imaged"] / 1e9
    reported = report["peak_extra_bytes"] / MB
    return {
        "seconds_per_gb": report["seconds"] / gigabytes,
        "cpu_seconds_per_gb": ready["prepare_cpu_seconds"] / gigabytes,
        "gb": gigabytes,
        "huge_share": report["huge_coverage"],
        "reported_extra_mb": reported,
        "seen_extra_mb": -1.0 if seen is None else seen / MB,
        "extra_mb": reported if seen is None else seen / MB,
    }


def example_service(stand: Stand, _options: Any) -> Iterator[Row]:
    stand.progress("the example service")
    value, detail = service.private_per_request(stand)
    yield "service", value, detail


def _ratio(key: str, samples: Samples, over: str, under: str, **more: Any) -> Row:
    """The row of a ratio of two medians. On a busy machine the lowest tenths tell more."""
    low = quantile(samples[over], 0.1) / quantile(samples[under], 0.1)
    detail = _detail(samples) | {"lowest_tenths": round(low, 3)} | more
    return key, median(samples[over]) / median(samples[under]), detail


def _detail(samples: Samples, scale: float = 1e3) -> dict[str, Any]:
    return {"samples": summary(samples, scale), "spread": round(spread(samples), 3)}


GROUPS: dict[str, Callable[[Stand, Any], Iterator[Row]]] = {
    "fork rate": fork_of_a_big_heap,
    "constant": constant_time,
    "floor-bare floor-numpy per-vma": distance_to_the_floor,
    "generation": next_generation,
    "roundtrip standby": round_trips,
    "private read-objects": reading_objects,
    "read-objects-3.11": reading_objects_old,
    "read-buffers": reading_buffers,
    "freeze-huge freeze-small freeze-memory": freezing,
    "service": example_service,
}
