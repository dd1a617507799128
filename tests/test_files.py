"""Files are whole or absent, and equal contents make equal bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from late_phase.support.errors import UserError
from late_phase.support.files import atomic, check_file, write_json, write_tensors, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_json(tmp_path):
    """Into folders that aren't there yet, over what is there, in UTF-8."""
    path = tmp_path / "a" / "b" / "file.txt"
    for text in ("first, longer\n", "φ\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    content = {"b": [1, 2.5, None], "a": {"ü": True}}
    write_json(path.with_name("file.json"), content)
    text = path.with_name("file.json").read_text(encoding="utf-8")
    assert json.loads(text) == content and list(json.loads(text)) == ["b", "a"] and text.endswith("}\n")
    assert names(path.parent) == ["file.json", "file.txt"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("written", [None, "half of the n"])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, old, written):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    with pytest.raises(ZeroDivisionError), atomic(path) as partial:
        if written is not None:
            partial.write_text(written)
        raise ZeroDivisionError
    assert names(tmp_path) == ([] if old is None else ["file.txt"])
    assert old is None or path.read_text() == old


def test_a_file_is_not_there_before_the_end(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == path.parent, "another file system would not do"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    """Neither a hidden partial one, nor one that the block itself used."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path / "folder", "text")
    assert error.value.filename == str(tmp_path / "folder")
    with pytest.raises(OSError, match="too long") as error:
        write_text(tmp_path / ("x" * 250), "text")
    assert error.value.filename == str(tmp_path / ("x" * 250))
    with pytest.raises(FileNotFoundError) as error, atomic(tmp_path / "file") as partial:
        partial.write_text((tmp_path / "absent").read_text())
    assert str(error.value.filename) == str(tmp_path / "absent")
    with pytest.raises(OSError, match="exists") as error:
        (tmp_path / "mine").write_text("")
        write_text(tmp_path / "mine" / "file", "text")
    assert str(error.value.filename) == str(tmp_path / "mine")
    assert names(tmp_path) == ["folder", "mine"]


def test_a_place_is_tried_before_there_is_content(tmp_path):
    """A good one is left as it was, or with its folder made; a bad one as it was, without the folders on the way."""
    path = tmp_path / "a" / "b" / "file"
    check_file("output", "value", path)
    assert names(path.parent) == []
    path.write_text("old")
    check_file("output", "value", path)
    assert path.read_text() == "old" and names(path.parent) == ["file"]
    too_long = tmp_path / "c" / "d" / ("x" * 300)
    for bad, reason in ((path / "c", "File exists"), (path.parent, "Is a directory"), (too_long, "File name too long")):
        with pytest.raises(UserError) as error:
            check_file("key", "value", bad)
        assert str(error.value) == f"key=value can't be used, because {bad} can't be written ({reason}): choose another place."
    assert names(tmp_path) == ["a"] and names(path.parent) == ["file"]


def test_what_json_cannot_hold_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "file.json", {"loss": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"loss": torch.zeros(1)})
    assert json.loads((tmp_path / "file.json").read_text()) == {"loss": 1}
    assert names(tmp_path) == ["file.json"]


def example(reverse: bool = False) -> dict[str, Tensor]:
    """Several types; strided and requiring gradients, too."""
    grid = torch.arange(60.0).view(3, 4, 5)
    tensors = {
        "transposed": grid.transpose(0, 2),
        "channels_last": grid[None].contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.0])),
        "half": torch.tensor([0.1, 7.0], dtype=torch.bfloat16),
        "labels": torch.tensor([3, 1, 2]),
        "pixels": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    return dict(reversed(tensors.items())) if reverse else tensors


def test_tensors_return(tmp_path):
    write_tensors(tmp_path / "file.safetensors", example(), metadata="a note")
    found = load_file(tmp_path / "file.safetensors")
    assert found.keys() == example().keys()
    for name, tensor in example().items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        assert file.metadata() == {"late_phase": "a note"}


def test_equal_tensors_make_equal_bytes_in_another_process(tmp_path):
    """In whatever order they come, with other hashes of strings."""
    code = (
        "import sys; from pathlib import Path; from test_files import example; from late_phase.support.files import write_tensors; "
        "write_tensors(Path(sys.argv[1]), example(reverse=True), metadata='a note')"
    )
    path = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "theirs")], check=True, env=environment)
    write_tensors(tmp_path / "ours", example(), metadata="a note")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    write_tensors(tmp_path / "other", example() | {"scalar": torch.tensor(2.25, dtype=torch.float64)}, metadata="a note")
    assert (tmp_path / "ours").read_bytes() != (tmp_path / "other").read_bytes()


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from late_phase.support.files import atomic, write_text

path, size = Path(sys.argv[1]), 2_000_000
texts = ["a" * size, "b" * (size // 2)]

def killed(write, after=None):
    child = os.fork()
    if child == 0:
        write()
        os._exit(1)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])

def half():
    with atomic(path) as partial:
        partial.write_text("b" * 100)
        os.kill(os.getpid(), signal.SIGKILL)

def forever():
    for i in range(10**9):
        write_text(path, texts[i % 2])

killed(half)
print(path.exists())
write_text(path, texts[0])
killed(half)
print(path.read_text() == texts[0])
random.seed(0)
seen = []
for _ in range(25):
    killed(forever, random.uniform(0, 0.03))
    seen.append(texts.index(path.read_text()))
print(len(seen))
write_text(path, "new")
print(path.read_text())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path):
    """Killed between two halves of a write, and 25 times somewhere; never a mix, and the next write is none the worse for it."""
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file.txt")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["False", "True", "25", "new"]


def test_shared_tensors(tmp_path):
    w = torch.ones(3)
    write_tensors(tmp_path / "f", {"a": w, "b": w})
