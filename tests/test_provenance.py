"""Which code made a result, as git knows it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from late_phase.runs.provenance import git_commit


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
