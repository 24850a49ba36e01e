"""A web server on 127.0.0.1 that serves bytes from memory and misbehaves when told to."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Fault = Callable[["Handler", bytes], None]  # answers a request in place of the server


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.asked: list[tuple[str, str | None]] = []  # path and range of each request
        self.ranges = True
        self.pace = 0.0  # seconds that 256 bytes take
        self.lock = threading.Lock()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges_asked(self, path: str) -> list[str | None]:
        return [wanted for asked, wanted in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, self.headers.get("Range")))
            faults = self.server.faults[self.path]
            fault = faults.pop(0) if faults else None
        body = self.server.files.get(self.path)
        if fault is not None:
            fault(self, body or b"")
        elif body is None:
            self.answer(404, b"no such file")
        else:
            self.serve(body)

    def serve(self, body: bytes) -> None:
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not self.server.ranges or not wanted or self.headers.get("If-Range", tag) != tag:
            self.answer(200, body, {"ETag": tag})
        elif int(wanted[1]) >= len(body):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        else:
            first = int(wanted[1])
            place = f"bytes {first}-{len(body) - 1}/{len(body)}"
            self.answer(206, body[first:], {"ETag": tag, "Content-Range": place})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, sent: int | None = None) -> None:
        """Sends an answer, or only the first `sent` bytes of its body."""
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.server.pace:
            for start in range(0, len(body), 256):
                self.wfile.write(body[start : start + 256])
                time.sleep(self.server.pace)
        else:
            self.wfile.write(body[:sent])
        if sent is not None:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def says(status: int, **headers: str) -> Fault:
    return lambda handler, body: handler.answer(status, b"", {key.replace("_", "-"): v for key, v in headers.items()})


def breaks_after(sent: int) -> Fault:
    """The connection ends in the middle of the body."""
    return lambda handler, body: handler.answer(200, body, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, sent=sent)


def stalls_after(sent: int, seconds: float) -> Fault:
    def fault(handler: Handler, body: bytes) -> None:
        breaks_after(sent)(handler, body)
        time.sleep(seconds)

    return fault


def trickles(pause: float, piece: int = 1 << 16) -> Fault:
    """Sends a piece at a time."""

    def fault(handler: Handler, body: bytes) -> None:
        breaks_after(0)(handler, body)
        for start in range(0, len(body), piece):
            handler.wfile.write(body[start : start + piece])
            time.sleep(pause)

    return fault


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server()
    server.handle_error = lambda *_: None  # clients that hang up are what is tested
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("no_proxy", "127.0.0.1")  # this machine's proxy, if it has one, would not reach us
            yield server
    finally:
        server.shutdown()
        server.server_close()
