"""The same service without Clonal: each connection in a fork, by Python's own ForkingMixIn.

    python fork_service.py [PORT]

It is warmed in the same way before it forks, and calls gc.freeze(), as the documentation of gc advises.
"""

from __future__ import annotations

import gc
import sys
from http.server import HTTPServer
from socketserver import ForkingMixIn

import app
from web import PhraseHandler, serve


class ForkingHTTPServer(ForkingMixIn, HTTPServer):
    """An HTTP server that forks for each connection."""


class Handler(PhraseHandler):
    """Answers in the process it is in: the fork."""

    def answer(self, phrase: str) -> str:
        return app.handle(phrase)


if __name__ == "__main__":
    app.prepare()
    gc.collect()
    gc.freeze()
    serve(ForkingHTTPServer, Handler, sys.argv[1:])
