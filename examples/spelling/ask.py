"""One request as a script: `python ask.py PHRASES` corrects one line of a file of phrases.

Run by `clonal run -n N --setup app:prepare ask.py PHRASES`, each run takes the next line.
"""

from __future__ import annotations

import itertools
import os
import sys

import app

if __name__ == "__main__":
    number = int(os.environ.get("CLONAL_RUN", "0"))
    with open(sys.argv[1], encoding="utf-8") as phrases:
        print(app.handle(next(itertools.islice(phrases, number, None)).rstrip("\n")))
