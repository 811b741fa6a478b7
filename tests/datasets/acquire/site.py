"""A web server on this machine, with a TLS face, that misbehaves as it is told."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any


@dataclass
class Served:
    """One file of the server, and how the server misbehaves with it."""

    body: bytes
    ranges: bool = True
    heeds_if_range: bool = True
    status: int = 200
    location: str = ""
    etag: str | None = '"1"'
    length: bool = True
    cut: int | None = None  # ends the connection after so many bytes of the file
    stall: int | None = None  # goes silent after so many bytes of the file
    always: bool = False  # cuts or stalls every time, not only the first
    seen: list[tuple[int, int]] = field(default_factory=list)  # first byte and number of bytes of each answer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.ended = threading.Event()

    def add(self, name: str, body: bytes, **how: Any) -> str:
        self.files[f"/{name}"] = Served(body, **how)
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave early are part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        file = self.server.files.get(self.path)
        if file is None or file.status >= 400:
            self.send_error(404 if file is None else file.status)
            return
        if file.location:
            self.send_response(302)
            self.send_header("Location", file.location)
            self.end_headers()
            return
        start, whole = 0, len(file.body)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and file.ranges and not (file.heeds_if_range and self.headers["If-Range"] != file.etag):
            start = int(asked[1])
            if start >= whole:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{whole}")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.length:
            self.send_header("Content-Length", str(whole - start))
        self.end_headers()
        limits = [limit for limit in (file.cut, file.stall) if limit is not None]
        end = max(start, min(limits)) if limits and (file.always or not file.seen) else whole
        silent = file.stall is not None and end < whole
        self.wfile.write(file.body[start:end])
        file.seen.append((start, min(end, whole) - start))
        if silent:
            self.wfile.flush()
            self.server.ended.wait(30)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def serving(tls: SSLContext | None = None) -> Iterator[Server]:
    server = Server()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
