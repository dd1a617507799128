"""Archives made here, good ones and hostile ones."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import running, without_proxies

from late_phase.data.archives import extract, fetch_extracted
from late_phase.data.download import Download
from late_phase.support.errors import UserError

FILES = {"top/a.txt": b"a" * 5000, "top/sub/b.bin": bytes(range(256)), "top/empty": b"", "other/c": b"c"}


def tar(path: Path, files: dict[str, bytes], *members: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def zipped(path: Path, files: dict[str, bytes], *members: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for member in members:
            archive.writestr(member, "/etc/passwd")
    return path


KINDS: dict[str, Callable[..., Path]] = {
    "a.tar.gz": tar,
    "a.tar": lambda path, files: tar(path, files, mode="w"),
    "a.zip": zipped,
}


@pytest.fixture(params=KINDS)
def make(request, tmp_path) -> Callable[..., Path]:
    """Makes an archive of each kind, in a folder of its own."""
    (tmp_path / "archives").mkdir()
    return lambda *arguments: KINDS[request.param](tmp_path / "archives" / request.param, *arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(archive: Path, to: Path) -> str:
    """Nothing is left, and nothing is outside of the folder."""
    before = contents(to.parents[1])
    with pytest.raises(UserError) as error:
        extract(archive, to)
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and str(archive) in message
    assert contents(to.parents[1]) == before
    assert not to.exists() and list(to.parent.glob(".*extracting")) == []
    return message


# ------------------------------------------------------------------------------------------------------------------- good


def test_the_named_folder_is_extracted_and_nothing_else(make, tmp_path):
    extract(make(FILES), tmp_path / "data" / "top")
    assert contents(tmp_path / "data") == {name: content for name, content in FILES.items() if name.startswith("top/")}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["top"]


def test_a_single_file(make, tmp_path):
    extract(make({"enwik8": b"text"}), tmp_path / "enwik8")
    assert (tmp_path / "enwik8").read_bytes() == b"text"


def test_what_was_there_is_replaced(make, tmp_path):
    (tmp_path / "data" / "top" / "old").mkdir(parents=True)
    scratch = tmp_path / "data" / ".top.extracting" / "left" / "by a killed process"
    scratch.mkdir(parents=True)
    extract(make(FILES), tmp_path / "data" / "top")
    assert set(contents(tmp_path / "data")) == {"top/a.txt", "top/sub/b.bin", "top/empty"}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["top"]


def test_names_that_begin_with_a_dot_and_a_slash(tmp_path):
    """As ``tar -c .`` writes them, folders as members of their own."""
    folder = tarfile.TarInfo("./top")
    folder.type, folder.mode = tarfile.DIRTYPE, 0
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(folder)
        member = tarfile.TarInfo("./top/a")
        member.size, member.mode, member.uid = 1, 0o6000, 12345
        archive.addfile(member, io.BytesIO(b"a"))
    extract(tmp_path / "a.tar", tmp_path / "top")
    assert (tmp_path / "top" / "a").read_bytes() == b"a"
    status = (tmp_path / "top" / "a").stat()
    assert status.st_mode & 0o7400 == 0o400 and status.st_uid == tmp_path.stat().st_uid


# ---------------------------------------------------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    "name",
    ["../evil", "top/../../evil", "/tmp/late_phase_evil", "top/sub/../../../evil", "..\\evil", "C:\\evil", "C:evil", "\\evil"],
)
def test_paths_out_of_the_folder(make, tmp_path, name):
    archive = make({"top/a": b"a", name: b"evil"})
    assert "outside of the folder" in refused(archive, tmp_path / "x" / "data" / "top")
    assert not Path("/tmp/late_phase_evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["/etc", "../..", "a"])
def test_links_and_devices_in_a_tar(tmp_path, kind, target):
    member = tarfile.TarInfo("top/link")
    member.type, member.linkname = kind, target
    archive = tar(tmp_path / "a.tar.gz", {"top/a": b"a"}, member)
    assert "top/link is a link or a device" in refused(archive, tmp_path / "x" / "data" / "top")


def test_writing_through_a_link(tmp_path):
    """A link to a folder outside, then a file in it."""
    link = tarfile.TarInfo("top/link")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(link)
        member = tarfile.TarInfo("top/link/evil")
        archive.addfile(member)
    refused(tmp_path / "a.tar", tmp_path / "x" / "data" / "top")
    assert not (tmp_path / "evil").exists()


def test_links_in_a_zip(tmp_path):
    member = zipfile.ZipInfo("top/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zipped(tmp_path / "a.zip", {"top/a": b"a"}, member)
    assert "top/link is a link or a device" in refused(archive, tmp_path / "x" / "data" / "top")


def test_a_link_in_the_folder_is_not_followed(tmp_path):
    """What is to be replaced is a link to a folder of somebody else's: the link goes, the folder stays."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "top").symlink_to(tmp_path / "precious")
    extract(tar(tmp_path / "a.tar", FILES), tmp_path / "data" / "top")
    assert (tmp_path / "precious" / "file").exists() and not (tmp_path / "data" / "top").is_symlink()


# ---------------------------------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("damage", ["shortened", "changed", "empty", "another"])
def test_damaged_archives(make, tmp_path, damage):
    archive = make({"top/a": bytes(range(256)) * 100, "top/b": b"b" * 1000})
    whole = archive.read_bytes()
    half = len(whole) // 2
    damaged = {
        "shortened": whole[:half],
        "changed": whole[: half - 9] + b"x" * 9 + whole[half:],
        "empty": b"",
        "another": b"<html>Please sign in.</html>",
    }[damage]
    archive.write_bytes(damaged)
    if damage == "changed" and archive.suffix == ".tar":
        return  # a tar file has no checksums
    refused(archive, tmp_path / "x" / "data" / "top")


def test_an_archive_of_something_else(make, tmp_path):
    assert "has no top" in refused(make({"other/a": b"a"}), tmp_path / "x" / "data" / "top")


def test_two_members_of_one_name(tmp_path):
    path = tmp_path / "a.tar"
    tar(path, {"top/a": b"1"}, mode="w")
    tar(path, {"top/a": b"2"}, mode="a")
    refused(path, tmp_path / "x" / "data" / "top")
    tar(path, {"top": b"1", "top/a": b"2"}, mode="w")
    refused(path, tmp_path / "x" / "data" / "top")


def test_an_interruption_leaves_nothing_that_looks_whole(make, tmp_path, monkeypatch):
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    archive = make(FILES)
    monkeypatch.setattr("shutil.copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "data" / "top")
    assert list((tmp_path / "data").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ and fetched


def known(archive: Path, *urls: str) -> Download:
    content = archive.read_bytes()
    return Download(archive.name, urls, len(content), f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}")


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_downloaded_archive_goes_and_a_placed_one_stays(make, tmp_path, monkeypatch):
    without_proxies(monkeypatch)
    archive, root = make(FILES), tmp_path / "data"
    with running() as server:
        file = known(archive, server.serve("a", archive.read_bytes()))
        for _ in range(2):
            assert fetch_extracted(file, root, "top") == root / "top"
            assert len(server.requests) == 1
    assert visible(root) == {"top"}, "neither the archive nor what is on record about it"

    other = tmp_path / "other"
    other.mkdir()
    (other / archive.name).write_bytes(archive.read_bytes())
    assert contents(fetch_extracted(known(archive), other, "top")) == contents(root / "top")
    assert visible(other) == {"top", archive.name, f".{archive.name}.verified"}


def test_an_extracted_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "top").mkdir()
    assert fetch_extracted(Download("absent", (), 1, "md5:0"), tmp_path, "top") == tmp_path / "top"
    assert visible(tmp_path) == {"top"}


def test_or_anew_if_it_is_not_whole(make, tmp_path):
    archive = make(FILES)
    (tmp_path / "archives" / "top").mkdir()
    fetch_extracted(known(archive), tmp_path / "archives", "top", whole=lambda path: (path / "a.txt").exists())
    assert (tmp_path / "archives" / "top" / "a.txt").exists()


def test_a_wrong_archive_is_not_even_opened(make, tmp_path, monkeypatch):
    archive = make(FILES)
    file = known(archive)
    archive.write_bytes(archive.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("late_phase.data.archives.extract", lambda *_: pytest.fail("it was extracted"))
    with pytest.raises(UserError, match="damaged"):
        fetch_extracted(file, archive.parent, "top")


def test_without_permission_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="lacks top and can't be written"):
        fetch_extracted(Download("a.tar", (), 1, "md5:0"), tmp_path, "top")
