"""Draws the pictures of the documents anew: what stands between `<!-- explain TOPIC STEP: begin -->` and
`<!-- explain: end -->` is what `clonal explain --model` draws. `--check`: changes nothing, exits 1 if one
was out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from clonal.explain import tell, text, topic

DOCS = Path(__file__).resolve().parent.parent / "docs"
PLACE = re.compile(r"<!-- explain (\S+) (\d+): begin -->\n.*?<!-- explain: end -->", re.DOTALL)


def drawn(document: str) -> str:
    """The document with all pictures drawn anew."""
    return PLACE.sub(lambda found: _place(found[1], int(found[2])), document)


def _place(name: str, step: int) -> str:
    story = tell(topic(name), None, "a document has none")
    picture = text.figure(story, step - 1)
    return f"<!-- explain {name} {step}: begin -->\n```text\n{picture}```\n<!-- explain: end -->"


def main(arguments: list[str]) -> int:
    old = []
    for path in sorted(DOCS.glob("*.md")):
        before = path.read_text("utf-8")
        if (after := drawn(before)) != before:
            old.append(path.name)
            if "--check" not in arguments:
                path.write_text(after, "utf-8")
    print(f"{'out of date' if '--check' in arguments else 'drawn anew'}: {', '.join(old) or 'nothing'}")
    return int(bool(old) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
