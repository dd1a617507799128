"""Command lines of scripts without a config: mistakes in one sentence, exit status 1."""

from __future__ import annotations

import argparse
import re

import pytest
from conftest import ROOT

from late_phase.support.arguments import Parser, count, one_of

NAMES = "not one of digits, cifar10, cifar100, .*"
MISTAKES = {
    "pairs that are no number": ("benchmark", ["--pairs=x"], r"argument --pairs: 'x' is not an integer of at least 1: {usage}"),
    "no pairs": ("benchmark", ["--pairs", "0"], r"argument --pairs: '0' is not an integer of at least 1: {usage}"),
    "half a pair": ("benchmark", ["--pairs=1.5"], r"argument --pairs: '1\.5' is not an integer of at least 1: {usage}"),
    "a missing value": ("benchmark", ["--pairs"], r"argument --pairs: expected one argument: {usage}"),
    "an unknown option": ("benchmark", ["--fast"], r"unrecognized arguments: --fast: {usage}"),
    "an unknown device": ("benchmark", ["--device=tpu"], r"argument --device: 'tpu' is not one of cpu, cuda: {usage}"),
    "an unknown argument": ("benchmark", ["5"], r"unrecognized arguments: 5: {usage}"),
    "a file as a folder": (
        "benchmark",
        ["--to", "/dev/null"],
        r"--to=/dev/null can't be used, because /dev/null/cpu\.json can't be written \(File exists\): choose .*\.",
    ),
    "no folders": ("report", [], r"the following arguments are required: FOLDER: {usage}"),
    "numbers without a place": ("report", ["x", "--keep"], r"--keep needs --to: {usage}"),
    "a value too many": ("report", ["x", "--keep=3"], r"argument --keep: ignored explicit argument '3': {usage}"),
    "no runs": ("soup", ["--to", "x"], r"the following arguments are required: RUN: {usage}"),
    "no place": ("soup", ["x"], r"the following arguments are required: --to: {usage}"),
    "no name": ("prepare_data", [], r"the following arguments are required: NAME: {usage}"),
    "an unknown name": ("prepare_data", ["cifar11"], rf"argument NAME: 'cifar11' is {NAMES}: {{usage}}"),
    "a name too many": ("prepare_data", ["digits", "noise"], r"unrecognized arguments: noise: {usage}"),
    "an unknown table": (
        "table",
        ["table7"],
        r"table7 is not one of .*cifar10_lenet, .*figure2, figure3, figure6, .*table1, .*: {usage}",
    ),
    "no table": ("table", [], r"the following arguments are required: NAME: {usage}"),
    "an unknown scale": ("table", ["table3", "--scale", "huge"], r"--scale huge is not one of convnet, digits, pydocs: {usage}"),
    "arguments of the demo": ("demo", ["fast"], r"unrecognized arguments: fast: {usage}"),
}
USAGE = {
    "benchmark": r"write benchmark\.py \[-h\] \[--pairs N\] \[--device NAME\] \[--to FOLDER\]\.",
    "report": r"write report\.py \[-h\] \[--to FOLDER\] \[--keep\] FOLDER \[FOLDER \.\.\.\]\.",
    "soup": r"write soup\.py \[-h\] --to FOLDER \[--greedy\] RUN \[RUN \.\.\.\]\.",
    "prepare_data": r"write prepare_data\.py \[-h\] \[--root FOLDER\] NAME\.",
    "table": r"write table\.py \[-h\] \[--dry\] .* NAME \[NAME \.\.\.\]\.",
    "demo": r"write demo\.py \[-h\]\.",
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("columns", ["200", "20"])
def test_a_mistake_is_one_sentence(main, tmp_path, monkeypatch, mistake, columns):
    """However wide the terminal is, by which argparse wraps the usage."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.syspath_prepend(ROOT / "scripts")  # where a script finds its neighbours
    script, arguments, sentence = MISTAKES[mistake]
    status, output = main(*arguments, script=f"scripts/{script}.py")
    assert re.fullmatch(f"error: {sentence.format(usage=USAGE[script])}", str(status)), status
    assert not output and not list(tmp_path.iterdir())


def test_help_is_what_the_script_is_for(capsys):
    parser = Parser("What it does.\n\nMore of it.")
    parser.add_argument("--pairs", type=count, metavar="N")
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    assert end.value.code == 0 and "What it does.\n\nMore of it." in capsys.readouterr().out
    assert parser.parse_args(["--pairs", "3"]).pairs == 3


def test_types():
    assert (count("7"), one_of(["a", "b"])("b")) == (7, "b")
    for convert, text in ((count, "0"), (count, "-3"), (count, ""), (count, "1e3"), (one_of(["a", "b"]), "c")):
        with pytest.raises(argparse.ArgumentTypeError):
            convert(text)
