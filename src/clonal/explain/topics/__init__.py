"""The topics, in the order in which they are best read."""

from __future__ import annotations

from clonal.explain.topic import Topic, UnknownTopic
from clonal.explain.topics import files, limits, programs, sharing

TOPICS: dict[str, Topic] = {
    each.name: each
    for each in (
        sharing.FORK,
        sharing.WRITE,
        sharing.LAST_SHARER,
        sharing.ZERO_PAGE,
        files.PRIVATE_FILE,
        sharing.THP,
        programs.EXEC,
        programs.VFORK,
        files.SHARED_MEMORY,
        files.IMAGE,
        programs.REFCOUNT,
        limits.OVERCOMMIT,
        limits.OOM,
        limits.STORM,
        limits.NUMA,
    )
}


def topic(name: str) -> Topic:
    """The topic of this name. Raises UnknownTopic."""
    if name not in TOPICS:
        raise UnknownTopic(name, TOPICS)
    return TOPICS[name]
