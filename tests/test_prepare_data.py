"""What ``scripts/prepare_data.py`` and ``make data-NAME`` say."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from late_phase.config.choices import CHOICES
from late_phase.data import CORRUPTED, NAMELESS, root_options, svhn
from late_phase.data.prepare import PREPARED, prepare


def test_every_dataset_has_a_name_and_a_config():
    assert set(PREPARED) == (set(CHOICES["dataset"]) | set(CORRUPTED)) - set(NAMELESS)
    assert set(CHOICES["dataset"]) == {path.stem for path in (ROOT / "configs" / "dataset").glob("*.yaml")}


@pytest.mark.parametrize("name", [name for name in CHOICES["dataset"] if name not in NAMELESS])
def test_every_config_is_for_its_loader(composed, name):
    config = composed("+experiment=digits_lenet_base", f"dataset={name}").dataset
    assert config.name == name
    assert getattr(config, "root", None) == root_options(name, "data").get("root"), "where make data-NAME puts it"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("digits", "digits: 1,437 training images, 360 test images in 10 classes; embedded"),
        ("noise", "noise: 1,000 test images, unlabelled; embedded"),
        ("digits_c", "digits_c: 6 corruptions, 5 severities, 360 images of each; embedded"),
    ],
)
def test_what_is_there(name, line):
    assert prepare(name, "unused") == line


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
    runpy.run_path(str(ROOT / "scripts" / "prepare_data.py"), run_name="__main__")


def test_the_script(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "noise")
    assert capsys.readouterr().out == "noise: 1,000 test images, unlabelled; embedded\n"
    monkeypatch.setattr(svhn, "FILE", replace(svhn.FILE, urls=()))
    with pytest.raises(SystemExit, match=rf"^error: dataset\.root={tmp_path} lacks test_32x32\.mat \(64,275,384 bytes, md5 "):
        run(monkeypatch, "svhn", "--root", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^error: argument NAME: 'cifar11' is not one of digits, cifar10, "):
        run(monkeypatch, "cifar11")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make():
    command = ["make", "--no-print-directory", "--dry-run", "PY=python", "data-cifar10_c"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == "python scripts/prepare_data.py cifar10_c\n"
