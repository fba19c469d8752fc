"""Hard use of libraries with allocators of their own, the same in a frozen process and in its twin.

Each class builds its data when made and works in `use`, which allocates, frees, grows columns, runs
its library's threads and imports what nobody had imported, and returns numbers that depend on every
byte it read. Two calls in two processes must give the same.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from typing import Any, Protocol


class Work(Protocol):
    def use(self, in_child: bool) -> list[Any]: ...


def digest(buffer: Any) -> str:
    return hashlib.blake2b(buffer, digest_size=8).hexdigest()


class Numpy:
    def __init__(self) -> None:
        import numpy as np

        self.wave = np.sin(np.arange(4_000_000, dtype=np.float64))
        self.table = (np.arange(3_000_000) % 1009).reshape(3000, 1000)
        self.square = self.table[:600, :600] % 7 + np.eye(600)
        self.spare = [np.full(1 << 20, fill, dtype=np.uint8) for fill in range(48)]
        self.square @ self.square  # starts the BLAS threads

    def use(self, in_child: bool) -> list[Any]:
        import numpy as np
        from numpy import polynomial

        found: list[Any] = [digest(self.wave), digest(self.table), digest(np.sort(self.wave))]
        del self.spare[:8]
        fresh = [np.zeros(1 << 20, dtype=np.uint8) for _ in range(24)]
        found.append(sum(int(array.any()) for array in fresh))
        grown = np.array(self.wave)
        grown.resize(grown.size * 3, refcheck=False)
        found += [digest(grown), digest(self.spare[-1]), float((self.square @ self.square).sum())]
        for fill in range(8):
            self.spare.insert(0, np.full(1 << 20, fill, dtype=np.uint8))
        found.append(round(float(np.abs(np.fft.rfft(self.wave[: 1 << 16])).sum()), 3))
        found.append(round(float(polynomial.chebyshev.chebval(0.3, self.wave[:50])), 6))
        return found


class Arrow:
    """The default pool is mimalloc's; ARROW_DEFAULT_MEMORY_POOL chooses jemalloc or malloc."""

    def __init__(self) -> None:
        import pyarrow as pa

        count = 600_000
        self.table = pa.table(
            {
                "key": pa.array([i * 7919 % 5003 for i in range(count)], pa.int32()),
                "name": pa.array([f"name {i * 31 % 997}" for i in range(count)]),
                "value": pa.array([i / 7 for i in range(count)], pa.float64()),
            }
        )
        self.spare = [pa.allocate_buffer(3 << 20) for _ in range(16)]
        self.table.group_by("key").aggregate([("value", "sum")])  # starts the CPU pool

    def use(self, in_child: bool) -> list[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.csv
        import pyarrow.parquet as pq

        found: list[Any] = [digest(chunk.buffers()[-1]) for chunk in self.table["name"].chunks]
        self.spare = self.spare[4:] + [pa.allocate_buffer(3 << 20) for _ in range(4)]
        pa.default_memory_pool().release_unused()
        grouped = self.table.group_by("name").aggregate([("value", "sum"), ("key", "max")])
        found.append(round(pc.sum(grouped["value_sum"]).as_py(), 3))
        grown = (
            pa.concat_tables([self.table] * 3)
            .combine_chunks()
            .sort_by([("key", "ascending"), ("value", "ascending")])
        )
        found += [digest(grown["value"].chunk(0).buffers()[1]), grown["name"][1234567].as_py()]
        growing = pa.allocate_buffer(1 << 20, resizable=True)
        for step in range(2, 40):
            growing.resize(step << 20)
        sink = pa.BufferOutputStream()
        pq.write_table(self.table, sink)
        again = pq.read_table(pa.BufferReader(sink.getvalue()))
        found.append(again.equals(self.table))
        text = pa.BufferOutputStream()
        pyarrow.csv.write_csv(self.table.slice(0, 50_000), text)
        found.append(digest(text.getvalue()))
        del grown, again, sink, text, growing, grouped
        gc.collect()
        pa.default_memory_pool().release_unused()
        return found


class Duck:
    """Its allocator is jemalloc. Its worker threads do not survive a fork, so a child uses the database
    that has none, and one that it opens itself."""

    def __init__(self) -> None:
        import duckdb

        self.alone = duckdb.connect(config={"threads": 1})
        self.many = duckdb.connect(config={"threads": 3})
        for base in (self.alone, self.many):
            self._fill(base)

    def _fill(self, base: Any) -> None:
        base.execute(
            "create table t as select i::integer as k, (i * 7919 % 10007)::integer as v,"
            " 'name ' || (i * 31 % 997) as s from range(400000) r(i)"
        )
        base.execute("create table doomed as select i, repeat('x', 100) || i as s from range(200000) r(i)")

    def use(self, in_child: bool) -> list[Any]:
        import duckdb
        import duckdb.experimental

        fresh = duckdb.connect(config={"threads": 2})
        self._fill(fresh)
        found = [self._ask(base) for base in [self.alone, fresh] + [self.many] * (not in_child)]
        fresh.close()
        return [found[0], all(each == found[0] for each in found)]

    def _ask(self, base: Any) -> list[Any]:
        base.execute("create or replace table grown as select * from t")
        for _ in range(3):
            base.execute("insert into grown select k + 1, v, s || '!' from grown where k % 2 = 0")
        base.execute("create or replace table copy as select * from doomed")
        base.execute("drop table copy")
        base.execute("checkpoint")
        asked = [
            "select count(*), sum(k), sum(v), sum(length(s)) from grown",
            "select s, sum(v), count(*) from grown group by s order by s limit 5",
            "select sum(a.v * b.v % 1000) from t a join t b on a.v = b.k where a.k < 100000",
            "select sum(r) from (select row_number() over (partition by v order by k) as r from t)",
        ]
        return [str(base.execute(query).fetchall()) for query in asked]


def ask_child(work: Work) -> list[Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(work.use(in_child=True)).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, "the child died"
    return list(json.loads(answer))


def main(name: str, freeze: str) -> None:
    """Print what each process answered, one JSON line each; at last how often a guard was needed."""
    work: Work = {"numpy": Numpy, "arrow": Arrow, "duck": Duck}[name]()
    if freeze:
        import clonal
        from clonal import _native

        report = clonal.freeze(immortal=freeze == "immortal")
        assert report.bytes_imaged > 40 << 20, report
        print(json.dumps(ask_child(work)))
        print(json.dumps(ask_child(work)))
    print(json.dumps(work.use(in_child=False)))
    print(json.dumps(work.use(in_child=False)))
    if freeze:
        print(json.dumps(ask_child(work)))
        clonal.freeze(immortal=freeze == "immortal")
        print(json.dumps(ask_child(work)))
        print(json.dumps(work.use(in_child=False)))
        print(sum(_native.guard_counts().values()))
    sys.stdout.flush()
    os._exit(0)  # some of these libraries hang in exit handlers after a fork, frozen or not


if __name__ == "__main__":
    main(*sys.argv[1:])
