"""What one request of the example service holds alone, in a clone and in a plain fork."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path
from typing import Any

from stand import MB, Stand

from clonal.bench.floor import Unavailable

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "spelling"
REQUESTS = 12


def phrases(count: int = REQUESTS) -> list[str]:
    """The example's own requests; Unavailable where its library is not installed."""
    if importlib.util.find_spec("symspellpy") is None:
        raise Unavailable(
            f"the example's library is not installed: pip install -r {EXAMPLE.name}/requirements.txt"
        )
    sys.path.insert(0, str(EXAMPLE))
    app = importlib.import_module("app")
    return list(app.requests(count))


def private_per_request(stand: Stand) -> tuple[float, dict[str, Any]]:
    """A clone's private bytes over those of an os.fork child after gc.freeze(), the median request."""
    asked = phrases()
    common = {"path": [str(EXAMPLE)], "setup": "app:warm", "imports": ["app"], "objects": 0.0}
    specs = {name: stand.spec(name, 0) | common for name in ("fork", "image-immortal", "clone")}
    held: dict[str, list[int]] = {}
    for name, spec in specs.items():  # one after the other: each has some 500 MB
        with stand.subjects({name: spec}) as subjects:
            subjects[name].ask(
                "measure", work=f"call:app:handle:{asked[0]}"
            )  # the first is not like the rest
            held[name] = [subjects[name].private(f"call:app:handle:{phrase}")["private"] for phrase in asked]
    medians = {name: statistics.median(values) for name, values in held.items()}
    detail = {"private_mb": {name: round(value / MB, 3) for name, value in medians.items()}}
    return medians["clone"] / medians["fork"], detail
