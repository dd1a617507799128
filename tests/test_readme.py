"""What the README says is true."""

from __future__ import annotations

import re

import torch
import torchvision
from conftest import ROOT

from late_phase.config.choices import CHOICES
from late_phase.data.prepare import PREPARED

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_drop_in_runs_as_it_stands():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(block, names)
    assert names["late"].members["fc.weight"].shape == (10, 10, 512)
    torchvision.models.resnet18(num_classes=10).load_state_dict(names["single"].state_dict(), strict=True)


def test_the_experiments_are_all_of_them():
    folder = ROOT / "configs" / "experiment"
    there = {path.stem for path in folder.glob("*.yaml")}
    assert set(re.findall(r"`((?:digits|cifar)\d*_\w+)`", README)) <= there
    assert set(re.findall(r"^\| `(\w+)` \|", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)) == there


def test_the_choices_are_all_of_them():
    for group in ("late_phase", "averaging", "ensemble", "architecture"):
        (choices,) = re.findall(rf"`{group}=(\w+(?:\|\w+)+)`", README)
        assert set(choices.split("|")) == set(CHOICES[group]) == {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}


def test_links_and_commands_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert len(targets) >= 5
    for target in targets + re.findall(r"python ((?:scripts/)?\w+\.py)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z0-9]+)(?!-)\b", README):
        table = ROOT / "configs" / "table" / f"{target}.yaml"
        assert target in ("lists",) or f"\n{target}:" in makefile or table.exists(), target
    for name in re.findall(r"make data-(\w+)", README):
        assert name in PREPARED and "\ndata-%:" in makefile
