"""The application: spelling correction of whole phrases by symspellpy, with its English data.

Nothing here knows of Clonal. `warm()` builds the dictionary once (seconds, some 400 MB, most of
it Python objects); `handle(phrase)` then corrects one phrase by looking up hundreds of its entries.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys
from collections.abc import Callable
from importlib import resources

from symspellpy import SymSpell

MAX_EDITS = 2
PREFIX = 10  # letters of a word that are indexed: more of them make look-ups faster and the index larger
WORDS = 20  # of a request
PRACTICE = (
    "whereis th elove hehad dated forImuch of thepast who couqdn'tread in sixtgrade",
    "in te dhird qarter oflast jear he hadlearned ofca sekretplan",
    "the bigjest playrs in te strogsommer film slatew ith plety of funn",
) * 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"

_speller: SymSpell | None = None


def warm() -> SymSpell:
    """Load the word frequencies and build the index of misspellings; done once for each process."""
    global _speller
    if _speller is None:
        speller = SymSpell(MAX_EDITS, PREFIX)
        with _no_collection(), resources.as_file(resources.files("symspellpy")) as data:
            speller.load_dictionary(data / "frequency_dictionary_en_82_765.txt", 0, 1)
            speller.load_bigram_dictionary(data / "frequency_bigramdictionary_en_243_342.txt", 0, 2)
        _speller = speller
    return _speller


def prepare() -> None:
    """Warm up for a server that forks: answer some phrases too. The interpreter adapts code to what
    it has seen run; done before the fork, no fork has to write that to memory of its own."""
    for phrase in PRACTICE:
        handle(phrase)


class _no_collection:
    """Millions of objects are made and none dropped: looking for cyclic garbage doubles the time."""

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *error: object) -> None:
        gc.enable()


def handle(phrase: str) -> str:
    """The phrase with its spelling and its word breaks corrected."""
    return str(warm().lookup_compound(phrase, MAX_EDITS)[0].term)


def summary() -> str:
    """What the dictionary holds."""
    speller = warm()
    index = speller.deletes
    return f"{len(speller.words):,} words, {len(speller.bigrams):,} pairs, {len(index):,} index entries"


def object_bytes() -> int:
    """How much of the warm process's memory is objects of the index and the frequencies."""
    speller = warm()
    index = speller.deletes
    tables = (index, speller.words, speller.bigrams)
    parts = (index.values(), *tables)  # keys of each table, and the lists of the index
    return sum(map(sys.getsizeof, itertools.chain(tables, *parts)))


def requests(count: int, seed: int = 1) -> list[str]:
    """`count` distinct misspelt phrases: walks along real word pairs, with typing errors."""
    follow: dict[str, list[str]] = {}
    for pair in warm().bigrams:
        first, second = pair.split()
        follow.setdefault(first, []).append(second)
    starts = sorted(follow)
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[_mistype(_walk(follow, starts, rng), rng)] = None
    return list(found)


def _walk(follow: dict[str, list[str]], starts: list[str], rng: random.Random) -> list[str]:
    """Words of which each was seen after the one before it, unless that one ends all its pairs."""
    words = [rng.choice(starts)]
    while len(words) < WORDS:
        words.append(rng.choice(follow.get(words[-1], starts)))
    return words


def _swap(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]


def _drop(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + word[at + 1 :]


def _replace(word: str, at: int, rng: random.Random) -> str:
    return word[:at] + rng.choice(LETTERS) + word[at + 1 :]


ERRORS: list[Callable[[str, int, random.Random], str]] = [_swap, _drop, _replace]


def _mistype(words: list[str], rng: random.Random) -> str:
    """Every third word gets a typing error, every tenth space is forgotten."""
    text = ""
    for word in words:
        if len(word) > 3 and rng.random() < 1 / 3:
            word = rng.choice(ERRORS)(word, rng.randrange(len(word)), rng)
        text += word if not text or rng.random() < 0.1 else " " + word
    return text
