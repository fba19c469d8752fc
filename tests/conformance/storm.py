"""Storms on templates and clones; run as a script by test_storms.py.

    storm.py kill ROUNDS SEED | many CLONES STANDBY | client

`kill` kills a clone, a template (warming up or at work) or a client at a random moment in each round and
checks what is said and that nobody survives. `many` makes CLONES clones and watches that nothing grows.
`client` is the victim of `kill`: it clones until it is killed.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import clonal

PATIENCE = 30.0  # seconds in which anything must be told or ended; a hang is a failure
DATA: list[Any] = []


def setup() -> None:
    DATA.extend({"i": i, "s": str(i)} for i in range(50_000))


def work(turns: int) -> str:
    """Some milliseconds of reading and writing frozen objects."""
    for turn in range(turns):
        for item in DATA[turn::97]:
            item["i"] += 1
    return digest(turns)


def digest(turns: int) -> str:
    return hashlib.sha256(str(turns).encode()).hexdigest()


def nothing() -> None:
    pass


def forever() -> None:
    while True:
        work(5)


def ended(pidfd: int, patience: float = PATIENCE) -> bool:
    return bool(select.select([pidfd], [], [], patience)[0])


def children(pid: int | str = "self") -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int | str = "self") -> int:
    """Private memory in bytes; shared pages of the image come and go with who maps them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def image_files(pid: int | str = "self") -> int:
    return len(
        {line.split()[4] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:" in line}
    )


# -- kill ------------------------------------------------------------------------------------------


def kill_clone(template: clonal.Template, rng: random.Random) -> str:
    given = [rng.randrange(40) for _ in range(rng.randrange(1, 6))]
    clones = [(template.clone(work, turns), turns) for turns in given]
    victim, _ = rng.choice(clones)
    pid = victim.pid
    time.sleep(rng.random() * 0.03)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for clone, its_turns in clones:
        error = clone.exception(PATIENCE)
        if error is None:
            assert clone.result() == digest(its_turns)
        else:
            assert clone is victim and isinstance(error, clonal.CloneDied), repr(error)
            assert error.signal == signal.SIGKILL and not error.oom, repr(error)
        clone.wait(PATIENCE)
    assert template.clone(work, 1).result(PATIENCE) == digest(1)
    return "clone killed" if victim.exception() else "clone killed too late"


def kill_template(rng: random.Random) -> str:
    with clonal.Template(setup=setup) as template:
        clones = [template.clone(forever) for _ in range(rng.randrange(4))]
        fds = [clone.pidfd for clone in clones if rng.random() < 0.8]
        time.sleep(rng.random() * 0.05)
        os.kill(template.pid, signal.SIGKILL)
        for clone in clones:
            error = clone.exception(PATIENCE)
            assert isinstance(error, clonal.TemplateDied | clonal.CloneDied), repr(error)
        assert all(map(ended, fds)), "a clone outlived its template"
        try:
            template.clone(nothing).result(PATIENCE)
        except clonal.TemplateDied as error:
            assert error.status == signal.SIGKILL, error
        else:
            raise AssertionError("the dead template made a clone")
    return "template killed"


def kill_warming(rng: random.Random) -> str:
    """The template dies before it is ready."""
    before = set(children())

    def kill() -> None:
        while not (new := set(children()) - before):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.3)
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with clonal.Template(setup=setup) as template:
            killer.join()
            template.clone(nothing).result(PATIENCE)
    except clonal.TemplateDied:
        return "template killed while it warmed up"
    finally:
        killer.join()
    return "template killed too late"


def kill_client(rng: random.Random) -> str:
    client = subprocess.Popen([sys.executable, __file__, "client"], stdout=subprocess.PIPE)
    assert client.stdout is not None
    template = os.pidfd_open(int(client.stdout.readline()))
    time.sleep(rng.random() * 0.2)
    client.kill()
    client.wait()
    family = client.stdout.read().split()  # to the end: nobody holds its standard output any more
    assert ended(template), "the template outlived its client"
    os.close(template)
    for pid in map(int, family):
        with contextlib.suppress(ProcessLookupError):
            clone = os.pidfd_open(pid)
            assert ended(clone), "a clone outlived its client"
            os.close(clone)
    client.stdout.close()
    return "client killed"


def client() -> None:
    with clonal.Template(setup=setup) as template:
        print(template.pid, flush=True)
        while True:
            clones = [template.clone(work, 20) for _ in range(3)] + [template.clone(nothing)]
            for clone in clones:
                print(clone.pid, flush=True)
            for clone in clones:
                clone.result()


def kill(rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    done: dict[str, int] = {}
    before = children(), descriptors(), image_files()
    template = clonal.Template(setup=setup)
    for _ in range(rounds):
        chance = rng.random()
        if chance < 0.7:
            what = kill_clone(template, rng)
        elif chance < 0.8:
            what = kill_template(rng)
        elif chance < 0.9:
            what = kill_warming(rng)
        else:
            what = kill_client(rng)
        done[what] = done.get(what, 0) + 1
    template.close()
    del template
    gc.collect()  # exceptions hold frames that hold handles
    after = children(), descriptors(), image_files()
    assert before == after, f"left behind: {before} → {after}"
    print(json.dumps(done))


# -- many ------------------------------------------------------------------------------------------


def holds(template: clonal.Template) -> dict[str, int]:
    """What may not grow; the template's children are standby clones, clones that still end, and zombies."""
    return {
        "children of the template": len(children(template.pid)),
        "descriptors of the client": descriptors(),
        "descriptors of the template": descriptors(template.pid),
        "memory files of the client": image_files(),
        "memory files of the template": image_files(template.pid),
        "kB of the client": resident() >> 10,
        "kB of the template": resident(template.pid) >> 10,
    }


def settled(template: clonal.Template, standby: int) -> dict[str, int]:
    """What is held when the last clone has been seen off: no kernel event tells of the template's close."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before = holds(template)
        time.sleep(0.2)
        if before["children of the template"] == standby and holds(template) == before:
            return before
    raise AssertionError(f"never at rest: {holds(template)}")


def many(count: int, standby: int) -> None:
    with clonal.Template(setup=setup, standby=standby) as template:
        for _ in range(200):
            template.clone(nothing).result(PATIENCE)
        before = settled(template, standby)
        begun = time.perf_counter()
        for index in range(count):
            clone = template.clone(work, 1) if index % 50 == 0 else template.clone(nothing)
            clone.result(PATIENCE)
            if index % 1000 == 999:
                clone.wait(PATIENCE)
        seconds = time.perf_counter() - begun
        del clone
        after = settled(template, standby)
    grown = {name: after[name] - before[name] for name in before}
    assert all(more <= (4096 if "kB" in name else 0) for name, more in grown.items()), (before, after)
    print(json.dumps({"clones": count, "seconds": round(seconds, 1), "grown": grown, "after": after}))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"kill": kill, "many": many, "client": client}[command](*map(int, arguments))
