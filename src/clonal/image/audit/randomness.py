"""Random generators: clones begin with the same state, and so draw the same numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.heap import descendants, loaded_class, namespace, type_name
from clonal.image.audit.registry import Facts, check

RANDOM = "random:Random"
SYSTEM = "random:SystemRandom"
GENERATOR = "numpy.random._generator:Generator"
LEGACY = "numpy.random.mtrand:RandomState"
NAMES = "tempfile:_RandomNameSequence"
OWN = (  # reported as global, or (trio's shuffles ready tasks) of no consequence
    ("random", "_inst"),
    ("numpy.random.mtrand", "_rand"),
    ("trio._core._run", "_r"),
)
FRESH = 624  # position of a Mersenne twister that was seeded and not drawn from
CHOSEN = 1 << 32  # torch seeds itself with 64 random bits; a seed below was chosen by somebody


@check()
def global_generators(_facts: Facts) -> Iterator[Hazard]:
    """The modules' own generators, once they were seeded or drawn from. Clonal reseeds these."""
    found = [text for text in (_python_global(), _numpy_global(), _torch_global()) if text]
    if found:
        yield Hazard(
            "prng-global",
            "note",
            listed(found),
            "clones of a Template are reseeded; after os.fork (also after freeze()) reseed numpy and torch "
            "in the child (Python's random does so itself), or they draw the same numbers",
        )


def _python_global() -> str:
    inst = namespace(sys.modules.get("random")).get("_inst")
    if inst is None:
        return ""
    _version, words, gauss = inst.getstate()
    return "random was drawn from" if words[-1] != FRESH or gauss is not None else ""


def _numpy_global() -> str:
    rand = namespace(sys.modules.get("numpy.random.mtrand")).get("_rand")
    if rand is None:
        return ""
    state = rand.get_state(legacy=False)
    if state.get("has_gauss") or state.get("state", {}).get("pos", FRESH) < FRESH - 1:
        return "numpy.random was drawn from"
    return "numpy.random was seeded" if rand._bit_generator._seed_seq is None else ""


def _torch_global() -> str:
    default = namespace(sys.modules.get("torch.random")).get("default_generator")
    if default is None:
        return ""
    if default.initial_seed() < CHOSEN:
        return "torch was seeded"
    left = bytes(default.get_state()[8:12].tolist())  # how many of a block of 624 are left; 1: none made
    return "torch was drawn from" if int.from_bytes(left, sys.byteorder) != 1 else ""


@check(RANDOM, GENERATOR, LEGACY, NAMES)
def own_generators(facts: Facts) -> Iterator[Hazard]:
    """Generators that the program made: nobody reseeds these."""
    spared = {id(one) for one in _spared(facts)}
    secure = {id(cls) for cls in descendants(root)} if (root := loaded_class(SYSTEM)) else set()
    found = [
        one
        for spec in (RANDOM, GENERATOR, LEGACY)
        for one in facts.heap.instances(spec)
        if id(one) not in spared and id(type(one)) not in secure
    ]
    if found:
        yield Hazard(
            "prng-object",
            "warning",
            listed(_tally(type_name(one) for one in found)),
            "make it in the clone, or spawn one per clone (numpy: Generator.spawn; random: seed()): all "
            "clones draw the same numbers from it, and Clonal reseeds only the global generators",
        )


def _spared(facts: Facts) -> Iterator[Any]:
    """Instances that are the modules' own, and those of tempfile, which makes new ones after a fork."""
    for module, name in OWN:
        yield namespace(sys.modules.get(module)).get(name)
    for names in facts.heap.instances(NAMES):
        yield vars(names).get("_rng")


def _tally(names: Iterator[str]) -> list[str]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return [f"{name} × {count}" if count > 1 else name for name, count in counts.items()]
