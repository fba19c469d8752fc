"""Random generators: clones begin with the same state, and so draw the same numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.heap import ask, descendants, loaded_class, namespace, type_name
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
NUMPY_CHOSEN = 1 << 64  # numpy seeds itself with 128 random bits; a seed below was chosen by somebody
TORCH_CHOSEN = 1 << 32  # torch seeds itself with 64


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
    return "random was drawn from" if _was_drawn_from(inst) else ""


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
    if default.initial_seed() < TORCH_CHOSEN:
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
    used = [one for one in found if ask(is_used, one, default=True)]
    kept = {id(one) for one in used}
    untouched = [one for one in found if id(one) not in kept]
    remedy = (
        "make it in the clone, or spawn one per clone (numpy: Generator.spawn; random: seed()): all "
        "clones draw the same numbers from it, and Clonal reseeds only the global generators"
    )
    if used:
        yield Hazard("prng-object", "warning", listed(_tally(used)), remedy)
    if untouched:
        evidence = f"neither seeded by hand nor drawn from: {listed(_tally(untouched))}"
        yield Hazard("prng-object", "note", evidence, remedy)


def is_used(generator: Any) -> bool:
    """Seeded by hand or drawn from: libraries make generators at import that they may never use.
    Of a random.Random the seed is not known; it counts once it was drawn from."""
    bits = getattr(generator, "_bit_generator", None)
    if bits is None:
        return _was_drawn_from(generator)
    seed = bits._seed_seq
    if seed is None or not isinstance(seed.entropy, int) or seed.entropy < NUMPY_CHOSEN:
        return True
    return str(type(bits)(seed).state) != str(bits.state)


def _was_drawn_from(twister: Any) -> bool:
    _version, words, gauss = twister.getstate()
    return bool(words[-1] != FRESH or gauss is not None)


def _spared(facts: Facts) -> Iterator[Any]:
    """Instances that are the modules' own, and those of tempfile, which makes new ones after a fork."""
    for module, name in OWN:
        yield namespace(sys.modules.get(module)).get(name)
    for names in facts.heap.instances(NAMES):
        yield vars(names).get("_rng")


def _tally(generators: list[Any]) -> list[str]:
    """Their classes, each with how many there are."""
    counts = Counter(map(type_name, generators))
    return [f"{name} × {count}" if count > 1 else name for name, count in counts.items()]
