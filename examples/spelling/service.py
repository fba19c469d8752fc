"""The service: spelling correction over HTTP, each request in its own clone of a warm process.

    python service.py [PORT]        then: curl 'http://127.0.0.1:PORT/?phrase=helo+wrld'

A request cannot leak memory into the next one, crash the service or see another's data: its
process is new, and gone when it is answered.
"""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer

import app
from web import PhraseHandler, serve

import clonal


class Handler(PhraseHandler):
    """Answers by a clone."""

    def answer(self, phrase: str) -> str:
        corrected: str = template.clone(app.handle, phrase).result()
        return corrected


if __name__ == "__main__":
    with clonal.Template(preload=["app"], setup="app:prepare") as template:
        serve(ThreadingHTTPServer, Handler, sys.argv[1:])
