"""What both services share: HTTP on the loopback address, one phrase in, one phrase out."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit


class PhraseHandler(BaseHTTPRequestHandler):
    """GET /?phrase=… answers with the corrected phrase."""

    protocol_version = "HTTP/1.1"  # a connection stays open until the client closes it

    def answer(self, phrase: str) -> str:
        """The corrected phrase; each service has its own way."""
        raise NotImplementedError

    def do_GET(self) -> None:
        phrases = parse_qs(urlsplit(self.path).query).get("phrase")
        if not phrases:
            self.send_error(400, "say ?phrase=...")
            return
        body = self.answer(phrases[0]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing about each request."""


def serve(server_class: type[HTTPServer], handler: type[PhraseHandler], arguments: list[str]) -> None:
    """Serve until Ctrl-C; prints the address."""
    server_class.request_queue_size = 128
    port = int(arguments[0]) if arguments else 0
    with server_class(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/?phrase=", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
