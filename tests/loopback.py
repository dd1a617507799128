"""A web server on this computer that misbehaves as it is told, for test_download.py and the tests of what is downloaded."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest


@dataclass
class Reply:
    """How a request is answered: by default rightly.

    Attributes:
        status: an error's, instead of the file.
        cut, stall: after so many bytes of the file it hangs up, or says nothing more until the server stops.
        ranges: whether it knows them; if not it sends the whole file.
        shift: a range begins so many bytes later than was asked for.
        change: position of a byte that is changed.
        length: whether it says how many bytes there are to come.
        pause: seconds before each of 16 parts.
    """

    status: int = 200
    cut: int | None = None
    stall: int | None = None
    ranges: bool = True
    shift: int = 0
    change: int | None = None
    length: bool = True
    pause: float = 0.0


@dataclass
class Server:
    """Answers the nth request for a path as its nth reply says, the others as the last one does."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def serve(self, path: str, content: bytes, *replies: Reply) -> str:
        """The address of a file."""
        self.files[path], self.replies[path] = content, list(replies) or [Reply()]
        return f"{self.url}/{path}"

    def ranges(self, path: str) -> list[str | None]:
        """The ranges asked for, one for each request."""
        return [asked for requested, asked in self.requests if requested == path]


@contextmanager
def running() -> Iterator[Server]:
    server = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = self.path[1:], self.headers.get("Range")
            server.requests.append((path, asked))
            if path not in server.files:
                self.send_error(404)
                return
            content, replies = server.files[path], server.replies[path]
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            if reply.status != 200:
                self.send_error(reply.status)
                return
            with suppress(ConnectionError):  # the other side was killed, or has seen enough
                self.send_file(content, reply, int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and reply.ranges else None)

        def send_file(self, content: bytes, reply: Reply, first: int | None) -> None:
            if first is not None and first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = 0 if first is None else first + reply.shift
            if reply.change is not None:
                content = content[: reply.change] + bytes([content[reply.change] ^ 1]) + content[reply.change + 1 :]
            self.send_response(200 if first is None else 206)
            if first is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if reply.length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = min(n for n in (reply.cut, reply.stall, len(content)) if n is not None)
            step = -(-max(end - start, 1) // 16)
            for part in range(start, end, step):
                time.sleep(reply.pause)
                self.wfile.write(content[part : min(part + step, end)])
            if reply.stall is not None:
                server.stopped.wait()

        def log_message(self, *args) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopped.set()
        httpd.shutdown()
        thread.join()


@contextmanager
def closed_port() -> Iterator[str]:
    """An address at which every connection is refused."""
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")
