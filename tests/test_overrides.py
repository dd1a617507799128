"""Overrides as text: paths reach the config as the shell hands them over, sweeps are split where they should be."""

from __future__ import annotations

import os
import random
import sys
import unicodedata
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from late_phase.command_line.overrides import literal, quote_paths, variant
from late_phase.config.paths import path_keys
from late_phase.config.training import TrainConfig
from late_phase.nqp.config import NqpConfig
from late_phase.suites.config import EvaluateConfig
from late_phase.support.errors import UserError

PATHS = path_keys(TrainConfig)
PARSER = OverridesParser.create()

NAMES = ["plain", "ü", "#", "[a]", "[a,b]", "a,b", "it's", "'a", 'say "a"', "a b", " a ", "$HOME", "a=b", "a=1,b=2", "~", "~a"]
NAMES += ["\\", "a\\", "a\\b", "\\'", "{a: b}", "(1)", "a (1)", "choice(1,2)", "range(1,3)", "1e3", "007", "1_000", ".5", "true"]
NAMES += ["NaN", ":", "a:b", "tab\t", "new\nline", "😀", "日本", "e\u0301", os.fsdecode(b"caf\xe9"), "@", "%", "!", "?", "*", "|"]
NAMES += ["&", ";", "`", "<", "^", "-a", "a'='b"]


def jobs(*arguments: str) -> list[dict[str, object]]:
    """The values of each job that Hydra makes of a command line, after all its ways from text to value and back."""
    quoted = quote_paths(["-m", *arguments], PATHS)
    (batch,) = BasicSweeper.split_arguments(PARSER.parse_overrides([a for a in quoted if a != "-m"]), None)
    return [{o.key_or_group: o.value() for o in PARSER.parse_overrides(job)} for job in batch]


def single(argument: str) -> object:
    (quoted,) = quote_paths([argument], PATHS)
    return PARSER.parse_override(quoted).value()


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_what_the_shell_hands_over(name):
    assert str(single(f"dataset.root={name}")) == name
    assert str(single(f"++dataset.root=data/{name}")) == f"data/{name}"


def test_so_is_any_text_of_special_characters():
    generator = random.Random(0)
    for _ in range(500):
        name = "".join(generator.choices("'\"\\,=()[]{}$~# aü1e.:\t+-", k=generator.randint(1, 8)))
        if name.strip()[:1] not in ("'", '"'):
            assert str(single(f"dataset.root={name}")) == name, name
            assert str(PARSER.parse_override(f"a={literal(name)}").value()) == name


def test_what_hydra_reads_as_it_is_stays_as_it_is():
    """So names of run directories stay, too."""
    arguments = ["dataset.root=cifar10", "dataset.root=data/imagenet", "dataset.root=../a-b_c.d", "dataset.root=2024"]
    arguments += [
        "architecture.weights=null",
        "dataset.root='a b'",
        'dataset.root="it\'s"',
        "dataset.root='it\\'s'",
        "dataset.root=",
    ]
    arguments += ["schedule.epochs=[1,2]", "late_phase.T0=40", "seed=sort(3,1,reverse=true)", "+experiment=digits_lenet_base"]
    arguments += ["+experiment=glob(digits_*)", "dataset=digits,noise", "+debug=[smoke]", "~logger", "~optimizer=sgd"]
    assert quote_paths(arguments, PATHS) == arguments


def test_null_and_interpolations_keep_their_meaning(main, tmp_path, monkeypatch):
    assert single("architecture.weights=null") is None
    monkeypatch.setenv("PLACE", "no where")
    for root in ("${oc.env:PLACE}/a b", "'${oc.env:PLACE}/a b'"):
        status, _ = main("dataset=image_folder", f"dataset.root={root}")
        assert "dataset.root=no where/a b has no folder train" in str(status)
    status, _ = main("dataset=image_folder", "dataset.root=${PLACE}/a")
    assert str(status) == (
        "error: ${PLACE} is not a key of the config: write ${oc.env:PLACE} for an environment variable, \\${PLACE} for a text."
    )


def test_other_values_with_an_equals_sign_are_taken_literally_too():
    assert single("logger.project=a=b") == "a=b"
    assert single("logger.project=a=b,c") == "a=b,c"
    assert jobs("logger.project=a=1,b=2") == [{"logger.project": "a=1"}, {"logger.project": "b=2"}]
    assert quote_paths(["--config-dir=a=b", "epochs=3"], PATHS) == ["--config-dir=a=b", "epochs=3"]


@pytest.mark.parametrize(
    "sweep",
    ["a=1,b=2", "choice(a=1,b=2)", "choice('a=1', b=2)", "'a=1',\"b=2\"", " a=1 , b=2 ", "sort(b=2,a=1)", "tag(t,choice(a=1,b=2))"],
)
def test_a_sweep_over_values_with_an_equals_sign_is_several_jobs(sweep):
    assert [job["architecture.weights"] for job in jobs(f"architecture.weights={sweep}")] == ["a=1", "b=2"]


def test_elements_of_a_sweep_are_literal_and_those_in_quotes_or_brackets_whole():
    found = [job["dataset.root"] for job in jobs("dataset.root=ü #,'a,b',it's,${oc.env:A,b},1e3,x(1,2),\\", "seed=1")]
    assert found == ["ü #", "a,b", "it's", "${oc.env:A,b}", "1e3", "x(1,2)", "\\"]
    assert [job["dataset.root"] for job in jobs("dataset.root=sort(b=2,a=1,reverse=true)")] == ["b=2", "a=1"]
    assert [job["dataset.root"] for job in jobs("dataset.root= a ")] == [" a "]
    assert len(jobs("dataset.root=a=1,b=2", "late_phase.K=1,2", "seed=range(3)")) == 12


def test_a_comma_in_a_path_that_is_there_is_not_taken_for_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("a,b", "~/a,b"):
        with pytest.raises(UserError) as refused:
            jobs(f"dataset.root={value}")
        assert f"dataset.root={value} is a file or folder, but in a sweep a comma separates values" in str(refused.value)
        assert f'write "dataset.root=\'{value}\'" for the file, "dataset.root=choice({value})" for the values' in str(refused.value)
    assert jobs("dataset.root='a,b'") == [{"dataset.root": "a,b"}]
    assert jobs("dataset.root=choice(a,b)") == [{"dataset.root": "a"}, {"dataset.root": "b"}]
    assert jobs("dataset.root=" + ",".join("x" * 9 for _ in range(999)))[998] == {"dataset.root": "x" * 9}  # too long for a name
    with pytest.raises(UserError, match="can't find files"):
        jobs("dataset.root=glob(*)")


def test_hydras_mode_makes_a_sweep_as_well():
    assert quote_paths(["hydra.mode=MULTIRUN", "dataset.root=ü,b"], PATHS)[1] == "dataset.root='ü',b"
    assert quote_paths(["dataset.root=ü,b"], PATHS) == ["dataset.root='ü,b'"]
    assert quote_paths(["--multi", "hydra.sweep.dir=a,b"], PATHS)[1] == "hydra.sweep.dir='a,b'"


def test_the_paths_are_those_that_the_schemas_mark():
    dataset = {"dataset.root", "dataset.path", "dataset.cache", "architecture.weights"}
    dataset |= {"dataset.validation_path", "dataset.test_path"}
    assert path_keys(TrainConfig) == dataset
    assert path_keys(EvaluateConfig) == dataset | {"run", "to", "root"}
    assert path_keys(NqpConfig) == {"output", "figure1.folder"}


def test_the_directory_of_a_run_tells_its_overrides_from_others():
    assert variant([]) == "default"
    assert variant(["+experiment=a", "seed=3", "runtime.device=cpu", "logger=wandb", "~logger", "dataset.cache=/x"]) == "default"
    # Names that have lost nothing have no hash: they are as they always were.
    assert variant(["late_phase.T0=40", "late_phase.K=5"]) == "T0=40,K=5"
    assert variant(["dataset=image_folder", "dataset.root=cifar10"]) == "dataset=image_folder,dataset.root=cifar10"
    assert variant(["dataset.root=v-1"]) == "dataset.root=v-1"
    long = [f"dataset.root={'x' * 200}"]
    assert variant(long) == f"dataset.root={'x' * 77}-6546c9cf"
    unlike = [
        *(["dataset.root=v/1"], ["dataset.root=v-1"], ["dataset.root='v/1'"], ["dataset.root=v//1"], ["dataset.root=v 1"]),
        *(["dataset.root=v_1"], ["dataset.root=[v,1]"], ["dataset.root=v,1"], ["dataset.root='v,1'"], ["dataset.root=~v"]),
        *(["dataset.root='ü'"], [f"dataset.root='{unicodedata.normalize('NFD', 'ü')}'"], ["dataset.root='u'"]),
        *(["dataset.root='\udce9'"], ["dataset.root='\udce8'"], ["a=1", "b=2"], ["a='1,b=2'"], ["~a"], ["a="], ["~a=1"], ["a=1"]),
        *(long, [long[0] + "y"], [long[0].replace("x" * 10, "/" * 10)], ["schedule.epochs=[1,2]"], ["schedule.epochs={1,2}"]),
    ]
    unlike.remove(["dataset.root=v,1"])  # which Hydra has in no single job: quote_paths puts quotes around it
    names = [variant(overrides) for overrides in unlike]
    assert len(set(names)) == len(names)
    assert all(len(name) < 110 and name.isascii() and set(name).isdisjoint("/\\'\"[]{}~ ") for name in names)
    assert variant(["dataset.root=v/1"]).startswith("dataset.root=v-1-")


def test_a_sweep_and_a_single_run_have_the_same_directory():
    for name in NAMES:
        (one,) = quote_paths([f"dataset.root={name}"], PATHS)
        (batch,) = BasicSweeper.split_arguments(PARSER.parse_overrides([one]), None)
        assert variant(batch[0]) == variant([one])
    # A name is of bytes, however the locale reads them.
    assert variant([f"dataset.root='{os.fsencode('ü').decode('ascii', 'surrogateescape')}'"]) == variant(["dataset.root='ü'"])


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_a_name_that_is_not_utf8_works_or_is_refused_before_the_work(main, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(b"the quick brown fox " * 200)
    small = ["+experiment=pydocs_lstm_lprank1", "+debug=smoke_text", "dataset=text_file", "late_phase.K=2", "architecture.units=4"]
    small += ["dataset.sequence_length=8", "batch_size=8", f"dataset.path={name}"]
    assert main(*small)[0] == 0
    status, output = main(*small)  # with what the first one has written
    assert status == 0 and "is finished already" in output
    for directory in (name, f"{name}/seed=0"):
        status, _ = main(f"hydra.run.dir=runs/{directory}")
        assert "has a name that is not UTF-8, which safetensors needs: choose another place." in str(status)
        assert not (tmp_path / "runs").exists()
    status, _ = main("architecture=lenet", "architecture.weights=x", "dataset=digits", f"to={name}", script="scripts/evaluate.py")
    assert str(status).startswith(r"error: to=caf\xe9 has a name that is not UTF-8")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("=5", "'=5' has no key: write KEY=VALUE."),
        ("=", "'=' has no key: write KEY=VALUE."),
        ("+", "'+' has no key: write KEY=VALUE."),
        ("~", "'~' has no key: write KEY=VALUE."),
        ("++=3", "'++=3' has no key: write KEY=VALUE."),
        ("@a=3", "'@a=3' has no key: write KEY=VALUE."),
        ("", "'' has no key: write KEY=VALUE."),
        ("epochs", "'epochs' has no value: write epochs=VALUE."),
        ("+experiment", "'+experiment' has no value: write +experiment=VALUE."),
        ("epochs=[3", "'epochs=[3' can't be read (no viable alternative at input '[3')"),
        (
            "ü=3",
            "'ü=3' can't be read (token recognition error at: 'ü'): write KEY=VALUE, and use two kinds of quotes if VALUE has",
        ),
        ("logger.project=Ä", "'logger.project=Ä' can't be read (token recognition error at: 'Ä')"),
        ("dataset=1", "dataset=1 doesn't name a choice: write dataset=NAME, or leave it out."),
        ("optimizer=null", "optimizer=null doesn't name a choice"),
        ("hydra/launcher=3", "hydra/launcher=3 doesn't name a choice"),
        ("+debug=true", "+debug=true doesn't name a choice: write +debug=NAME, or leave it out."),
        ("dataset=digits,2", "dataset=digits,2 doesn't name a choice"),
        ("dataset=range(1,3)", "dataset=range(1,3) doesn't name a choice"),
        ("--no-such-flag", "unrecognized arguments: --no-such-flag: write options such as -m first and then KEY=VALUE;"),
        ("--config-dir", "argument --config-dir/-cd: expected one argument"),
    ],
)
def test_what_is_no_override_is_refused(argument, message):
    with pytest.raises(UserError) as refused:
        quote_paths([argument], PATHS)
    assert str(refused.value).startswith(message)


def test_paths_of_any_name_make_runs_that_are_found_again(main, tmp_path):
    """From end to end: trained from weights of such a name into such a directory, evaluated, reported."""
    tiny = ["epochs=1", "batch_size=8", "dataset.subset=24", "dataset.test_subset=20", "late_phase.T0=0", "late_phase.K=2"]
    for directory, weights in (("ü #[1],it's (2) ~a/b=c/seed=0", "null"), ("x/y,z/seed=0", "ü #[1],it's (2) ~a/b=c/seed=0")):
        status, output = main(*tiny, f"hydra.run.dir={directory}", f"architecture.weights={weights}")
        assert status == 0 and output.endswith(f"in {tmp_path / directory}\n")
        assert (tmp_path / directory / "metrics.json").exists()
        assert main(f"run={directory}", script="scripts/evaluate.py")[0] == 0
        assert (Path(directory) / "evaluation" / "accuracy.json").exists()
    arguments = [f"architecture.weights={directory}/model.safetensors", "architecture=lenet", "dataset=digits", "to=a, b=c"]
    assert main(*arguments, script="scripts/evaluate.py")[0] == 0
    assert (tmp_path / "a, b=c" / "accuracy.json").exists()
    status, output = main("-m", "run=ü #[1]\\,it's (2) ~a/b=c/seed=0", script="scripts/evaluate.py")
    assert "error" in str(status)  # a backslash is part of the name
    status, output = main("-m", f"run='x/y,z/seed=0',{'ü #[1],it'}'s (2) ~a/b=c/seed=0", script="scripts/evaluate.py")
    assert str(status).startswith("error: run=ü #[1] holds no finished run")
    assert main(".", "--to", "ü #[1]", script="scripts/report.py")[0] == 0
    assert (tmp_path / "ü #[1]" / "table.md").exists()
