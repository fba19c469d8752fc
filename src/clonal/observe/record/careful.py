"""A recording that is written from outside: what is recorded goes on where it cannot be written on."""

from __future__ import annotations

import sys
from typing import Any

from clonal.observe.record.file import Kind, Writer


class Careful(Writer):
    """Says once that it cannot write on."""

    failed = False

    def write(self, kind: Kind, data: dict[str, Any], records: bytes = b"", pid: int | None = None) -> None:
        if self.failed:
            return
        try:
            super().write(kind, data, records, pid)
        except OSError as error:
            self.failed = True
            print(f"clonal record: {self.path}: {error.strerror}: recording ends here", file=sys.stderr)
