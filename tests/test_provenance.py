"""Which code made a result, as git knows it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from late_phase.runs.provenance import code_digest, git_commit


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_code(tmp_path):
    """Results that runs leave beside it, tracked ones too, don't make other code."""
    assert git_commit(tmp_path) is None, "no repository"
    code, results = tmp_path / "src", tmp_path / "results"
    for folder in (code, results):
        folder.mkdir()
        (folder / "a.txt").write_text("before")
    git(tmp_path, "init")
    assert git_commit(code) is None, "no commit"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(code) == commit and len(commit) == 40
    (results / "a.txt").write_text("after")
    (results / "b.txt").touch()
    assert git_commit(code) == commit
    (code / "a.txt").write_text("after")
    assert git_commit(code) == f"{commit}-dirty"
    git(tmp_path, "add", "src")
    assert git_commit(code) == f"{commit}-dirty", "also where it is staged"
    git(tmp_path, "commit", "-m", "second")
    (code / "new.txt").touch()
    assert git_commit(code) == git(tmp_path, "rev-parse", "HEAD") + "-dirty"
    (tmp_path / ".gitignore").write_text("new.txt")
    assert git_commit(code) == git(tmp_path, "rev-parse", "HEAD")


def test_the_code_is_what_it_computes(tmp_path):
    """Words and layout don't make other code; a number does, and a name of a file."""

    def version(text: str, name: str = "a.py") -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / name).write_text(text)
        return code_digest(folder)

    before = 'def f(x):\n    """Says."""\n    if x < 0:\n        raise ValueError("negative")\n    return x + 1\n'
    assert version(before) == version(before.replace("Says", "Tells").replace("negative", "below 0").replace("+ 1", "+  1  # one"))
    others = [version(before.replace("+ 1", "+ 2")), version(before.replace("x < 0", "x < 1")), version(before, "c.py")]
    assert len({version(before), *others}) == 4


def test_rooms_that_compute_nothing_do_not_count(tmp_path):
    def version(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        code_digest.cache_clear()
        return code_digest(tmp_path)

    computing = {"reporting/a.py": False, "support/errors.py": False, "layers/a.py": True, "support/seeding.py": True}
    for name, counts in computing.items():
        assert (version(name, "x = 1") != version(name, "x = 2")) == counts, name
