"""Database files: SQLite and DuckDB forbid to carry a connection over a fork."""

from __future__ import annotations

from collections.abc import Iterator

from clonal.image.audit.descriptors import STANDARD, Descriptor
from clonal.image.audit.hazard import Hazard, listed
from clonal.image.audit.registry import Facts, check

SQLITE = b"SQLite format 3\0"
DUCKDB = b"DUCK"  # at byte 8, after a checksum
COMPANIONS = ("-wal", "-shm", "-journal")


@check()
def databases(facts: Facts) -> Iterator[Hazard]:
    """Descriptors of database files, recognised by their first bytes, whoever opened them."""
    found = [f"fd {one.fd} {one.target} ({kind})" for one in facts.descriptors if (kind := _kind(one))]
    if found:
        yield Hazard(
            "database-file",
            "danger",
            listed(found),
            "close the connection before the freeze and open one in the clone: POSIX locks are not "
            "inherited, so two processes believe that they hold the same one and may corrupt the file",
        )


def is_database(one: Descriptor) -> bool:
    return bool(_kind(one)) or one.target.endswith(COMPANIONS)


def _kind(one: Descriptor) -> str:
    if not one.regular or one.fd in STANDARD:
        return ""
    if one.head == SQLITE:
        return "SQLite"
    return "DuckDB" if one.head[8:12] == DUCKDB else ""
