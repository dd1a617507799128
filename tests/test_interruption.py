"""Signals: a run saves before it ends, and a launcher's own handler has the last word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hydra.core.config_store import ConfigStore
from runs import TINY, StopAfter, history

from late_phase.training.interruption import Interruption
from late_phase.training.loop import run

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
QUEUED_AGAIN = 144
"""The exit status by which submitit's local executor knows that a job is to start again."""


@pytest.fixture
def launcher():
    """A launcher's handlers, which note the signals that they get."""
    noted: list[int] = []
    before = {number: signal.signal(number, lambda number, _: noted.append(number)) for number in SIGNALS}
    yield noted
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGINT])
def test_without_a_launcher_each_signal_saves_and_ends_the_run(number, tmp_path, composed, monkeypatch, capfd):
    directory = tmp_path / "a" / "b" / "seed=0"
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        StopAfter(patch, 11, number)
        run(composed(*TINY), directory)
    assert end.value.code == 128 + number and f"stopped by {number.name}\n" in capfd.readouterr().err
    checkpoint = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["tally"]["batches"]) == (1, 3)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_launchers_handler_gets_the_signal_once_the_run_has_saved(number, tmp_path, composed, monkeypatch, launcher):
    directory, saved = tmp_path / "a" / "b" / "seed=0", []

    def queue_again(number: int, _: object) -> None:
        checkpoint = torch.load(directory / "checkpoint.pt", weights_only=True)
        saved.append((checkpoint["epoch"], checkpoint["tally"]["batches"]))
        raise SystemExit(QUEUED_AGAIN)

    signal.signal(number, queue_again)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        StopAfter(patch, 11, number)
        run(composed(*TINY), directory)
    assert end.value.code == QUEUED_AGAIN and saved == [(1, 3)] and not launcher
    assert signal.getsignal(number) is queue_again


def test_where_the_launchers_handler_returns_the_run_goes_on(tmp_path, composed, monkeypatch, launcher):
    whole, warned = tmp_path / "whole" / "b" / "seed=0", tmp_path / "warned" / "b" / "seed=0"
    run(composed(*TINY), whole)
    StopAfter(monkeypatch, 11, signal.SIGTERM)
    run(composed(*TINY), warned)
    assert launcher == [signal.SIGTERM]
    assert history(warned) == history(whole)
    assert (warned / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_launcher_that_hurries_does_not_interrupt_the_saving(launcher):
    with Interruption() as interruption:
        with interruption.deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGUSR2)
            assert not launcher and interruption.requested == signal.SIGUSR2
        assert launcher == [signal.SIGUSR2]  # the last one counts
        signal.raise_signal(signal.SIGUSR1)  # where nothing is to be saved
        assert launcher == [signal.SIGUSR2, signal.SIGUSR1]
        with pytest.raises(SystemExit), interruption.deferred():
            signal.raise_signal(signal.SIGINT)  # the user's, whatever the launcher is


def test_the_extra_is_asked_for_where_it_is_not_installed(main, monkeypatch):
    store = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(store, "submitit_slurm.yaml", raising=False)
    status, _ = main("-m", "hydra/launcher=slurm", "seed=0,1")
    assert status == "error: hydra/launcher=slurm needs the package hydra-submitit-launcher: pip install -e '.[slurm]'."


@pytest.fixture
def sweep(tmp_path: Path):
    """Starts a sweep by submitit in ``tmp_path``, long enough that signals find its jobs in training."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    small = [*TINY, "epochs=40", "runtime.threads=1", "runtime.evaluate_every=0", "hydra.sweep.subdir=seed=${seed}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    started = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train.py"), "-m", *arguments, *small]
        options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, env=environment | variables, **options))
        return started[-1]

    yield start
    for process in started:
        with process, suppress(ProcessLookupError):  # which has closed the pipes at its end
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_preempted_job_is_queued_again_and_ends_as_if_nothing_had_been(tmp_path, sweep, composed):
    """By submitit's local executor, with the signal that it sends: SIGUSR1 where SIGUSR2 is not free."""
    process = sweep("hydra/launcher=slurm_local", "seed=0,1", SUBMITIT_PREEMPT_SIGNAL="USR1")
    folder = tmp_path / "outputs"
    wait_for(lambda: len(list(folder.glob("seed=*/checkpoint.pt"))) == 2, process)
    jobs = [path.name.partition("_")[0] for path in folder.glob(".submitit/*/*_submitted.pkl")]
    assert len(jobs) == 2
    for job in jobs:  # in submitit's local executor, the number of the process that looks after the job
        (task,) = subprocess.run(["ps", "-o", "pid=", "--ppid", job], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(task), signal.SIGUSR1)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    for seed in (0, 1):
        whole = tmp_path / "whole" / "b" / f"seed={seed}"
        run(composed(*TINY, "epochs=40", "runtime.evaluate_every=0", f"seed={seed}"), whole)
        assert history(folder / f"seed={seed}") == history(whole)
        assert (folder / f"seed={seed}" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [path.read_text().count("Starting with ") for path in folder.glob(".submitit/*/*.out")] == [2, 2]


FAKES = {
    # sbatch starts each job of the array in the background, again and again while it asks for it by `scontrol requeue`.
    "sbatch": """#!/bin/bash
    cp "$1" {folder}/batch.sh
    last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
    for i in $(seq 0 $last); do
        (
            export SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$i SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
            export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
            touch {folder}/queue_7_$i
            while rm {folder}/queue_7_$i 2>/dev/null; do bash {folder}/batch.sh; done
        ) >/dev/null 2>&1 &
    done
    echo Submitted batch job 7
    """,
    "srun": """#!/bin/bash
    shift; while [ "${{1#--}}" != "$1" ]; do shift 2; done
    exec "$@" >>{folder}/log_$SLURM_ARRAY_TASK_ID
    """,
    "scontrol": "#!/bin/bash\n[ $1 = requeue ] && touch {folder}/queue_$2\n",
    "sacct": "#!/bin/bash\necho 'JobID|State|NodeList'; for i in 0 1; do echo \"7_$i|RUNNING|here\"; done\n",
}
"""What a cluster has, on one machine."""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_seeds_are_one_array_whose_jobs_slurm_queues_again(tmp_path, sweep):
    """All of the SLURM launcher is real but SLURM itself."""
    for name, text in FAKES.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(folder=tmp_path))
        path.chmod(0o755)
    process = sweep("hydra/launcher=slurm", "seed=0,1", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    folder = tmp_path / "outputs"
    wait_for((folder / "seed=1" / "checkpoint.pt").exists, process)
    (pid,) = [
        pid
        for pid in subprocess.run(
            ["pgrep", "-f", f"submitit.core._submit.*{tmp_path}"], capture_output=True, text=True
        ).stdout.split()
        if "SLURM_ARRAY_TASK_ID=1" in Path("/proc", pid, "environ").read_text().split("\0")
    ]
    os.kill(int(pid), signal.SIGUSR2)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    assert all((folder / f"seed={seed}" / "metrics.json").exists() for seed in (0, 1))
    assert [(tmp_path / f"log_{i}").read_text().count("Starting with ") for i in (0, 1)] == [1, 2]
    batch = (tmp_path / "batch.sh").read_text()
    for option in ("array=0-1%2", "requeue", "signal=USR2@120", "time=720", "gpus-per-node=1", "cpus-per-task=4", "mem=16GB"):
        assert f"\n#SBATCH --{option}\n" in batch
