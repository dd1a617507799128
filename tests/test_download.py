"""Downloads from a web server on this computer that truncates, stalls, changes bytes and refuses ranges."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Reply, Server, closed_port, running, without_proxies

from late_phase.data import download
from late_phase.data.download import Download, fetch
from late_phase.support.errors import UserError

CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = len(CONTENT) // 2
NAME = "data.bin"


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    without_proxies(monkeypatch)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with running() as server:
        yield server


def known(*urls: str, content: bytes = CONTENT, size: bool = True, algorithm: str = "sha256") -> Download:
    digest = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    return Download(NAME, urls, len(content) if size else None, f"{algorithm}:{digest}")


def partial(folder: Path) -> Path:
    return folder / f".{NAME}.partial"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {f".{NAME}.lock"}


DONE = {NAME, f".{NAME}.verified"}


def refused(file: Download, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        fetch(file, folder)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message
    for part in (f"dataset.root={folder}", NAME, file.checksum.replace(":", " "), *file.urls):
        assert part in message
    assert not (folder / NAME).exists(), "nothing broken looks whole"
    return message


# ---------------------------------------------------------------------------------------------------- from a good server


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
@pytest.mark.parametrize("size", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_is_downloaded_once(server, tmp_path, algorithm, size, length):
    file = known(server.serve("a", CONTENT, Reply(length=length)), size=size, algorithm=algorithm)
    for _ in range(2):
        path = fetch(file, tmp_path / "new" / "data")
        assert path == tmp_path / "new" / "data" / NAME
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == DONE
    assert server.ranges("a") == [None]


def test_a_file_that_is_there_is_taken_without_a_network(tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(known(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("placed", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_wrong_file_that_is_there_is_replaced_by_a_right_one_only(server, tmp_path, placed):
    (tmp_path / NAME).write_bytes(placed)
    with closed_port() as nowhere, pytest.raises(UserError, match="holds a damaged data"):
        fetch(known(nowhere), tmp_path)
    assert (tmp_path / NAME).read_bytes() == placed
    assert fetch(known(server.serve("a", CONTENT)), tmp_path).read_bytes() == CONTENT


def test_the_checksum_is_computed_again_only_for_a_changed_file(tmp_path, monkeypatch):
    (tmp_path / NAME).write_bytes(CONTENT)
    hashed = []
    original = download._matches
    monkeypatch.setattr(download, "_matches", lambda file, path: hashed.append(path) or original(file, path))
    for _ in range(3):
        fetch(known(), tmp_path)
    assert len(hashed) == 1
    os.utime(tmp_path / NAME, ns=(0, 0))
    for _ in range(3):
        fetch(known(), tmp_path)
    assert len(hashed) == 2
    (tmp_path / NAME).write_bytes(CONTENT[::-1])
    with pytest.raises(UserError):
        fetch(known(), tmp_path)
    (tmp_path / NAME).write_bytes(CONTENT)
    fetch(known(), tmp_path)
    with pytest.raises(UserError):  # the same file, verified, is not what is wanted now
        fetch(known(content=CONTENT[::-1]), tmp_path)


def test_a_folder_that_can_only_be_read_will_do(tmp_path, monkeypatch):
    (tmp_path / NAME).write_bytes(CONTENT)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)

    def refuse(*_) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download, "write_text", refuse)
    assert fetch(known(), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == {NAME}
    (tmp_path / NAME).unlink()
    with pytest.raises(UserError, match="can't be written: choose another folder"):
        fetch(known("http://nowhere"), tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^dataset\.root="):
        fetch(known(), tmp_path / "file")


# -------------------------------------------------------------------------------------------------------- from a bad one


@pytest.mark.parametrize("reply", [Reply(cut=HALF), Reply(stall=HALF)])
def test_a_transfer_that_ends_early_is_continued(server, tmp_path, reply):
    file = known(server.serve("a", CONTENT, reply, Reply()))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.ranges("a") == [None, f"bytes={HALF}-"]
    assert names(tmp_path) == DONE


def test_without_a_known_length_an_early_end_is_noticed(server, tmp_path):
    file = known(server.serve("a", CONTENT, Reply(cut=HALF, length=False), Reply()))
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_patience_lasts_as_long_as_there_is_progress(server, tmp_path):
    """Many more interruptions than the attempts that a server gets, each a little further on."""
    cuts = range(0, len(CONTENT), len(CONTENT) // 12)
    file = known(server.serve("a", CONTENT, *(Reply(cut=cut) for cut in cuts[1:]), Reply()))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == len(cuts)


@pytest.mark.parametrize("reply", [Reply(cut=HALF), Reply(stall=HALF), Reply(cut=HALF, ranges=False)])
def test_patience_ends_without_progress_and_what_came_is_kept(server, tmp_path, reply):
    file = known(server.serve("a", CONTENT, reply))
    message = refused(file, tmp_path)
    assert ("no answer for 0.3 seconds" if reply.stall else f"{HALF:,} of {len(CONTENT):,} bytes") in message
    assert len(server.requests) == 1 + download.ATTEMPTS
    assert partial(tmp_path).read_bytes() == CONTENT[:HALF]
    server.requests.clear()
    assert fetch(known(server.serve("b", CONTENT)), tmp_path).read_bytes() == CONTENT
    assert server.ranges("b") == [f"bytes={HALF}-"]


def test_a_server_that_refuses_ranges_sends_everything_again(server, tmp_path):
    partial(tmp_path).write_bytes(CONTENT[:HALF])
    file = known(server.serve("a", CONTENT, Reply(ranges=False)))
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.ranges("a") == [f"bytes={HALF}-"]


@pytest.mark.parametrize("shift", [-1, 1, 1000])
def test_a_range_from_another_place_is_not_appended(server, tmp_path, shift, monkeypatch):
    """Which is noticed before it is received, not by the checksum."""
    original, hashed = download._matches, []
    monkeypatch.setattr(download, "_matches", lambda file, path: hashed.append(path) or original(file, path))
    partial(tmp_path).write_bytes(CONTENT[:HALF])
    file = known(server.serve("a", CONTENT, Reply(shift=shift)), size=False)
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.ranges("a") == [f"bytes={HALF}-", None]
    assert len(hashed) == 1


@pytest.mark.parametrize("start", [b"?" * HALF, b"?" * len(CONTENT), b"?" * (len(CONTENT) + 1)])
@pytest.mark.parametrize("size", [True, False])
def test_a_wrong_beginning_is_thrown_away(server, tmp_path, start, size):
    """Half of it, all of it, and more than there is."""
    partial(tmp_path).write_bytes(start)
    assert fetch(known(server.serve("a", CONTENT), size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges("a")[-1] is None and names(tmp_path) == DONE


@pytest.mark.parametrize("size", [True, False])
def test_a_complete_beginning_is_taken(server, tmp_path, size):
    """The process was stopped before it could give the file its name."""
    partial(tmp_path).write_bytes(CONTENT)
    assert fetch(known(server.serve("a", CONTENT), size=size), tmp_path).read_bytes() == CONTENT
    assert server.ranges("a") == ([] if size else [f"bytes={len(CONTENT)}-"])


@pytest.mark.parametrize("reply", [Reply(change=0), Reply(change=len(CONTENT) - 1), Reply(change=7, length=False)])
@pytest.mark.parametrize("size", [True, False])
def test_a_changed_byte_is_noticed_and_nothing_is_left(server, tmp_path, reply, size):
    assert "not what was expected" in refused(known(server.serve("a", CONTENT, reply), size=size), tmp_path)
    assert names(tmp_path) == set()
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"<html>Please sign in.</html>", CONTENT + b"more"])
@pytest.mark.parametrize("length", [True, False])
def test_another_file_is_refused_before_it_is_received_if_its_length_is_known(server, tmp_path, content, length):
    message = refused(known(server.serve("a", content, Reply(length=length))), tmp_path)
    if length:
        assert f"it has {len(content):,} bytes instead of 300,000" in message and names(tmp_path) == set()
    assert fetch(known(server.serve("b", CONTENT)), tmp_path).read_bytes() == CONTENT


def test_the_next_mirror_is_tried_and_continues(server, tmp_path):
    with closed_port() as nowhere:
        urls = [
            f"{nowhere}/a",
            f"{server.url}/absent",
            server.serve("changed", CONTENT, Reply(change=9)),
            server.serve("cut", CONTENT, Reply(cut=HALF)),
            server.serve("good", CONTENT),
        ]
        assert fetch(known(*urls), tmp_path).read_bytes() == CONTENT
    assert server.ranges("good") == [f"bytes={HALF}-"]
    assert len(server.ranges("absent")) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, tmp_path, status):
    file = known(server.serve("a", CONTENT, Reply(status=status), Reply(status=status), Reply()))
    assert fetch(file, tmp_path).read_bytes() == CONTENT


def test_offline_it_says_what_to_put_where_and_why(server, tmp_path):
    with closed_port() as nowhere:
        message = refused(known(f"{nowhere}/a", f"{server.url}/absent"), tmp_path)
    assert "300,000 bytes" in message
    assert "Connection refused" in message and "HTTP Error 404" in message
    assert "not a url" in refused(known("not a url"), tmp_path)
    assert names(tmp_path) == set()


def test_a_full_disk_is_not_the_servers_fault(server, tmp_path, monkeypatch):
    original = Path.open

    def full(path: Path, *args, **options):
        if path == partial(tmp_path):
            raise OSError(28, "No space left on device")
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"can't store data.bin .*No space left on device"):
        fetch(known(server.serve("a", CONTENT)), tmp_path)
    assert len(server.requests) == 1


# -------------------------------------------------------------------------------------------------------------- processes


WORKER = """
import os, signal, sys
from pathlib import Path
from late_phase.data.download import Download, fetch

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    folder, result, file = eval(line)
    if pid := os.fork():
        print(pid, flush=True)
    else:
        Path(result).write_bytes(fetch(Download(*file), Path(folder)).read_bytes())
        os._exit(0)
"""


@pytest.fixture(scope="module", autouse=True)
def worker() -> Iterator[subprocess.Popen]:
    """Forks a process for each download; started before the first test, as importing torch takes long."""
    environment = os.environ | {"no_proxy": "*"}
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        yield worker
        worker.kill()


@pytest.fixture
def start(worker) -> Callable[..., int]:
    """Downloads in a process of its own, whose number it returns."""

    def start_one(file: Download, folder: Path, result: Path) -> int:
        print((str(folder), str(result), (file.name, file.urls, file.size, file.checksum)), file=worker.stdin, flush=True)
        return int(worker.stdout.readline())

    return start_one


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_killed_process_is_taken_up_by_the_next(server, tmp_path, start):
    file = known(server.serve("a", CONTENT, Reply(stall=HALF), Reply()))
    pid = start(file, tmp_path, tmp_path / "result")
    wait_for(lambda: partial(tmp_path).exists() and partial(tmp_path).stat().st_size > 0)
    os.kill(pid, signal.SIGKILL)
    assert names(tmp_path) == {partial(tmp_path).name}, "nothing broken looks whole"
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    first, second = server.ranges("a")
    assert first is None and 0 < int(second[6:-1]) <= HALF


def test_two_processes_at_once_download_once(server, tmp_path, start):
    file = known(server.serve("a", CONTENT, Reply(pause=0.02)))
    results = [tmp_path / f"result {i}" for i in range(2)]
    for result in results:
        start(file, tmp_path / "data", result)
    wait_for(lambda: all(result.exists() and result.stat().st_size == len(CONTENT) for result in results))
    assert all(result.read_bytes() == CONTENT for result in results)
    assert server.ranges("a") == [None]
    assert names(tmp_path / "data") == DONE
