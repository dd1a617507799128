"""What README and docs say is true: commands and code run as they stand, links lead somewhere, generated parts are up to date."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torchvision
from conftest import ROOT
from PIL import Image

from late_phase.config.choices import CHOICES
from late_phase.data.prepare import PREPARED
from late_phase.reporting.documentation import BLOCK, documentation, filled
from late_phase.reporting.page import read_page
from late_phase.support.errors import UserError

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
ERRORS = ROOT / "docs" / "troubleshooting.md"

SMALL = {
    "train.py": ["runtime.progress=false"],
    "scripts/nqp.py": ["eta=0.1", "n=4", "target_norm=2.0", "window=1"],
    "scripts/evaluate.py": ["flatness.draws=2", "flatness.sigmas=[0.1]"],
}
"""Script -> what keeps a command of it short."""

ON_DIGITS = ["dataset=digits", "architecture=lenet", "+debug=smoke"]
ON_TABLE = ["+debug=smoke_table"]
ON_TEXT = ["+debug=smoke_text", "dataset.sequence_length=10"]

DRY = re.compile(r"make (table\d+|tables|comparison|cifar10\w+|gpt|methods|precision|tabular\w*)\b")
"""Targets that train for minutes to days: tests ask what they would do. tests/test_tables.py makes tables."""

ELSEWHERE = {
    "make demo": "takes minutes; tests/entries.py runs its script",
    "make test": "runs this test",
    "make figure1": "takes minutes; tests/test_nqp_figure.py draws it smaller",
    ". .venv/bin/activate": "is for shells",
}
"""Command -> why it is not run here."""


def commands() -> list[str]:
    found = {}
    for page in PAGES:
        if page == ERRORS:
            continue
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                if words := shlex.split(line, comments=True):
                    found[shlex.join(words)] = words
    return [command for command in found if command not in ELSEWHERE]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, composed) -> Path:
    """``outputs`` with two seeds of the embedded example, smaller, where commands in the docs look for it."""
    from late_phase.training.loop import run

    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    for seed in (0, 1):
        config = composed("+experiment=digits_lenet_lpbn", "+debug=smoke", f"seed={seed}")
        run(config, outputs / "digits_lenet_lpbn" / "default" / f"seed={seed}")
    return outputs


@pytest.mark.parametrize("command", commands())
def test_a_command_does_what_it_says(main, tmp_path, finished, command):
    words = shlex.split(command)
    if words[0] == "make":
        dry = ["DRY=1"] if DRY.match(command) else []
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test` sets its own
        make = [*words, *dry, "--dry-run", "--no-print-directory", "PY=python"]
        printed = subprocess.run(make, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
        words = shlex.split(printed.stdout)
    if words[:2] == ["torchrun", "--nproc-per-node=2"]:  # in one process; tests/test_world.py starts several
        words[:2] = ["python"]
    python, script, *arguments = words
    assert python == "python", command

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(12):
                Image.new("L", (32, 32), 20 * number).save(tmp_path / "images" / split / name / f"{number}.png")
    (tmp_path / "table.csv").write_text("size,colour,price\n" + "".join(f"{n},{'rgb'[n % 3]},{n / 7}\n" for n in range(400)))
    (tmp_path / "text").write_bytes(b"All that is told here is told twice. " * 200)
    shutil.copytree(finished, tmp_path / "outputs")
    weights = tmp_path / "outputs" / "digits_lenet_lpbn" / "default" / "seed=0" / "model.safetensors"
    places = {
        "dataset.root=FOLDER": f"dataset.root={tmp_path / 'images'}",
        "dataset.path=FILE": f"dataset.path={tmp_path / 'text'}",
        "dataset.path=TABLE.csv": f"dataset.path={tmp_path / 'table.csv'}",
    }
    places |= {"architecture.weights=FILE": f"architecture.weights={weights}", "to=FOLDER": "to=results", "FOLDER": "folder"}
    arguments = [places.get(argument, argument) for argument in arguments]
    if script == "scripts/prepare_data.py":  # without the network
        arguments = [re.sub(r"^cifar100?", "digits", argument) for argument in arguments]
    arguments = [re.sub(r"^late_phase\.T0=.*", "late_phase.T0=0,1", argument) for argument in arguments]  # of two epochs
    if script == "train.py" and not {"--help", "--cfg"} & set(arguments):
        of_text = any("lstm" in argument or "gpt" in argument for argument in arguments)
        of_table = "architecture=mlp" in arguments
        own = any(argument.startswith("dataset=") for argument in arguments)
        debug = any(argument.startswith("+debug=") for argument in arguments)
        small = ON_TABLE if of_table else ON_TEXT if of_text else ON_DIGITS
        arguments += [
            word for word in small if not (word.startswith("+debug") and debug) and not (word.startswith("dataset=") and own)
        ]
    if "--cfg" not in arguments and "--help" not in arguments:
        arguments += SMALL.get(script, [])

    status, output = main(*arguments, script=script)
    assert status == 0, output


@pytest.mark.parametrize(
    ("command", "message"), re.findall(r"```sh\n(.*?)\n```\n+```text\n(.*?)\n```", ERRORS.read_text(encoding="utf-8"), re.DOTALL)
)
def test_an_error_is_the_one_that_is_explained(main, command, message):
    python, script, *arguments = shlex.split(command)
    status, output = main(*arguments, script=script)
    assert python == "python" and message in f"{status}{output}"


def test_what_is_run_elsewhere_is_there():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(command in text for command in ELSEWHERE)


def test_the_drop_in_runs_as_it_stands(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(block, names)
    assert names["late"].members["fc.weight"].shape == (10, 10, 512)
    torchvision.models.resnet18(num_classes=10).load_state_dict(names["single"].state_dict(), strict=True)

    monkeypatch.chdir(tmp_path)  # the page goes on from there
    before = names["late"].average().state_dict()
    exec("import torch.nn.functional as F", names)
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your-own-loop.md").read_text(encoding="utf-8"), re.DOTALL):
        if "process_group=" in code:
            ddp = names["model"] = torchvision.models.resnet18(num_classes=10)
            ddp.no_sync = contextlib.nullcontext  # tests/test_processes.py has DistributedDataParallel in two processes
            names |= {"ddp": ddp, "dist": dist, "optimizer": torch.optim.SGD(ddp.parameters(), lr=0.1)}
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        exec(code, names)
        if dist.is_initialized():
            dist.destroy_process_group()
    assert torch.equal(names["single"].state_dict()["fc.weight"], before["fc.weight"])
    assert names["log_probs"].exp().sum(1).allclose(torch.ones(len(names["x"])))


def test_a_finished_model_is_used_as_it_stands(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {"pixels": torch.zeros(2, 1, 32, 32, dtype=torch.uint8)}
    exec(code, names)
    assert names["logits"].shape == (2, 10)


def test_the_experiments_are_all_of_them():
    folder = ROOT / "configs" / "experiment"
    there = {path.stem for path in folder.glob("*.yaml")}
    tables = {path.stem for path in (ROOT / "configs" / "table").glob("*.yaml")}
    for page in [page for page in PAGES if page != ERRORS]:
        named = re.findall(
            r"\b((?:digits|cifar100?|enwik8|pydocs)_(?:lenet|wrn|vit|lstm|gpt)_\w+)", page.read_text(encoding="utf-8")
        )
        assert set(named) <= there | tables, page
    assert set(re.findall(r"^\| `(\w+)` \|", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)) == there


def test_the_choices_are_all_of_them():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").replace("\\|", "|")
    for group in ("late_phase", "averaging", "ensemble", "architecture", "optimizer", "logger"):
        (choices,) = re.findall(rf"`{group}=(\w+(?:\|\w+)+)`", text)
        assert set(choices.split("|")) == set(CHOICES[group]) == {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}
    for group in ("scale", "debug"):
        (choices,) = re.findall(rf"`\+{group}=(\w+(?:\|\w+)+)`", text)
        assert set(choices.split("|")) == {path.stem for path in (ROOT / "configs" / group).glob("*.yaml")}
    datasets = set(re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for cell in datasets for name in re.findall(r"`(\w+)`", cell)}
    assert named == {path.stem for path in (ROOT / "configs" / "dataset").glob("*.yaml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("http")]
    for target in targets:
        assert (page.parent / target.partition("#")[0]).exists(), target
    for name in re.findall(r"make data-(\w+)", text):
        assert name in PREPARED


def test_every_page_is_in_the_list_of_pages():
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in listed for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


def test_generated_parts_are_up_to_date():
    found = documentation(read_page(ROOT / "results", ROOT), ROOT)
    assert ROOT / "README.md" in found and ROOT / "docs" / "methods" / "README.md" in found
    for path, text in found.items():
        assert text == path.read_text(encoding="utf-8"), f"{path} is out of date: make page"


def test_generated_parts_are_told_from_the_rest():
    text = "before\n<!-- claims: One -->\nold\n<!-- end of claims -->\nafter <!-- a comment -->\n"
    expected = "before\n<!-- claims: One -->\n\n| One |\n\n<!-- end of claims -->\nafter <!-- a comment -->\n"
    assert filled(text, {"claims": lambda topic: f"| {topic} |"}, Path("x.md")) == expected
    with pytest.raises(UserError, match=r"x\.md has a generated part 'claims', which is unknown: choose one of runs\."):
        filled(text, {"runs": str}, Path("x.md"))
    assert not BLOCK.search("<!-- claims: One -->\nnever ended\n")
