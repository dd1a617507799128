"""Runs that ``torchrun`` starts in two processes, against runs of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from double import double_precision
from runs import TINY, history
from safetensors.torch import load_file

from late_phase.support.errors import UserError
from late_phase.training.loop import run
from late_phase.training.world import World

ONE = World(0, 1, torch.device("cpu"))
# Large minibatches and small steps, because BatchNorm over 8 images multiplies rounding by 4 in each step.
FEW = (*TINY, "batch_size=32", "dataset.subset=200", "optimizer.lr=0.005")


def start(directory: Path, *overrides: str, script: str = "train.py", processes: int = 2) -> subprocess.Popen:
    """Starts a run under ``torchrun``."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [*launcher, str(ROOT / script), *overrides, f"hydra.run.dir={directory}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=directory.parent,
    )


def output(process: subprocess.Popen) -> str:
    text, _ = process.communicate(timeout=100)
    return text


def processes_of(launcher: subprocess.Popen) -> list[int]:
    """Returns the processes of the run, in the order of their ranks."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()

    def rank(process: str) -> int:
        variables = Path(f"/proc/{process}/environ").read_text().split("\0")
        return next((int(entry.removeprefix("RANK=")) for entry in variables if entry.startswith("RANK=")), -1)

    ranks = {rank(process): int(process) for process in children}
    return [ranks[k] for k in sorted(ranks) if k >= 0]


def wait_for(file: Path, launcher: subprocess.Popen) -> None:
    while not file.exists():
        assert launcher.poll() is None, output(launcher)
        time.sleep(0.05)


def assert_close(one: Path, other: Path, folder: str = ".") -> None:
    found, expected = (load_file(directory / folder / "members.safetensors") for directory in (other, one))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    for row, wanted in zip(history(other), history(one), strict=True):
        for name, value in row.items():
            if not value:  # not measured
                continue
            assert float(value) == pytest.approx(float(wanted[name]), rel=1e-5), name


@pytest.fixture(scope="module")
def of_one(tmp_path_factory, composed) -> Path:
    directory = tmp_path_factory.mktemp("of one") / "run"
    with double_precision():
        run(composed(*FEW), directory)
    return directory


@pytest.mark.parametrize("divide", ["members", pytest.param("minibatches", marks=pytest.mark.slow)])
def test_two_processes_train_the_run_of_one(divide, of_one, tmp_path):
    launcher = start(tmp_path / "run", *FEW, f"late_phase.divide={divide}", script="tests/double.py")
    text = output(launcher)
    assert launcher.returncode == 0, text
    assert text.count("single: test accuracy") == 1, "one process reports"
    assert_close(of_one, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("divide", ["members", "minibatches"])
@pytest.mark.parametrize(
    "overrides",
    [
        ("+experiment=diabetes_mlp_lpadapters", "+debug=smoke_table", "patience=null", "batch_size=17"),
        ("+experiment=pydocs_gpt_lpln", "+debug=smoke_text", "max_grad_norm=null", "batch_size=3", "dataset.minibatches=7"),
    ],
    ids=["table", "text"],
)
def test_two_processes_train_tables_and_windows_as_one(overrides, divide, composed, tmp_path):
    own = (*overrides, "late_phase.K=3")
    launcher = start(tmp_path / "two", *own, f"late_phase.divide={divide}", script="tests/double.py")
    text = output(launcher)
    assert launcher.returncode == 0, text
    with double_precision():
        run(composed(*own), tmp_path / "one")
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_signal_to_one_process_saves_once_and_the_run_resumes_in_one(of_one, composed, tmp_path):
    long = (*FEW, "runtime.checkpoint_every=0")
    launcher = start(tmp_path / "run", *long, script="tests/double.py")
    wait_for(tmp_path / "run" / "history.csv", launcher)
    os.kill(processes_of(launcher)[1], signal.SIGTERM)
    text = output(launcher)
    assert launcher.returncode != 0 and text.count("stopped by SIGTERM") == 2, text
    assert (tmp_path / "run" / "checkpoint.pt").exists() and not (tmp_path / "run" / "checkpoint.previous.pt").exists()
    with double_precision():
        run(composed(*long), tmp_path / "run")
    assert_close(of_one, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_signal_to_the_whole_job_saves_although_torchrun_hands_it_on(of_one, composed, tmp_path):
    long = (*FEW, "runtime.checkpoint_every=0")
    launcher = start(tmp_path / "run", *long, script="tests/double.py")
    wait_for(tmp_path / "run" / "history.csv", launcher)
    for process in (*processes_of(launcher), launcher.pid):
        os.kill(process, signal.SIGTERM)
    text = output(launcher)
    assert launcher.returncode != 0 and (tmp_path / "run" / "checkpoint.pt").exists(), text
    with double_precision():
        run(composed(*long), tmp_path / "run")
    assert_close(of_one, tmp_path / "run")


@pytest.mark.slow
def test_an_average_over_steps_is_that_of_one_process(composed, tmp_path):
    ema = (*FEW, "averaging=ema")
    launcher = start(tmp_path / "two", *ema, "late_phase.divide=minibatches", script="tests/double.py")
    text = output(launcher)
    assert launcher.returncode == 0, text
    with double_precision():
        run(composed(*ema), tmp_path / "one")
    assert_close(tmp_path / "one", tmp_path / "two")
    assert_close(tmp_path / "one", tmp_path / "two", "ema")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_all_and_leaves_a_checkpoint(rank, of_one, composed, tmp_path):
    launcher = start(tmp_path / "run", *FEW, script="tests/double.py")
    wait_for(tmp_path / "run" / "checkpoint.pt", launcher)
    os.kill(processes_of(launcher)[rank], signal.SIGKILL)
    text = output(launcher)
    assert launcher.returncode != 0
    assert "another process of this run has ended" in text or "stopped by SIGTERM" in text, text
    with double_precision():
        run(composed(*FEW), tmp_path / "run")
    assert_close(of_one, tmp_path / "run")


GARBAGE = """
import weakref
import torch.distributed as dist
from late_phase.training.world import join_world

class Garbage: ...

with join_world("cpu") as world:
    own = Garbage()
    own.itself, own.group = own, dist.group.WORLD
    group = weakref.ref(own.group)
    del own
    world.wait()
    assert group() is not None
assert group() is None
print("freed")
"""


@pytest.mark.slow
def test_the_group_ends_with_the_block_although_garbage_refers_to_it(tmp_path):
    (tmp_path / "garbage.py").write_text(GARBAGE)
    launcher = start(tmp_path / "run", script=str(tmp_path / "garbage.py"))
    text = output(launcher)
    assert launcher.returncode == 0 and text.count("freed") == 2, text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (
            ["+experiment=pydocs_lstm_base", "+debug=smoke_text"],
            "architecture=lstm reads a text in order, which 2 processes can't divide: run one process.",
        ),
        (["max_grad_norm=1"], "max_grad_norm=1.0 can't clip the gradients of 2 processes"),
        (["averaging=ema"], "averaging=ema needs all members after each step, which 2 processes divide"),
        (["late_phase=head"], "members share running statistics such as bn1.running_mean"),
        (
            ["batch_size=7", "dataset.subset=29", "architecture=wrn", "architecture.depth=10", "architecture.width=1"],
            "batch_size=7 leaves 1 examples for 2 processes",
        ),
        (["-m", "seed=0,1"], "torchrun starts one run"),
    ],
)
def test_refuses_runs_that_can_not_be_divided(overrides, why, tmp_path):
    launcher = start(tmp_path / "run", *overrides)
    text = output(launcher)
    assert launcher.returncode != 0 and why in text, text
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_one_process_is_a_world_of_its_own():
    assert ONE.agree(lambda: 3) == 3 and ONE.total([1.5]) == [1.5] and ONE.first
    with pytest.raises(UserError, match="mine"):
        ONE.agree(lambda: (_ for _ in ()).throw(UserError("mine")))
