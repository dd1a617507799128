"""What a failed job of a sweep leaves, and jobs that two sweeps have in common."""

from __future__ import annotations

import threading
import time

import pytest

from late_phase.command_line import hydra_jobs
from late_phase.runs.errors import ERROR, recorded
from late_phase.support.errors import Busy, UserError

SMALL = ("epochs=1", "batch_size=8", "dataset.subset=24", "dataset.test_subset=20", "late_phase.K=2", "late_phase.T0=0")


def test_a_failed_job_says_why_until_it_is_started_again(main, tmp_path):
    fixed = [*SMALL[:-1], "runtime.progress=false"]
    main("-m", *fixed, "late_phase.T0=0,300")
    (error,) = tmp_path.glob(f"outputs/**/{ERROR}")
    assert error.read_text() == "late_phase.T0=300 is after the last epoch (epochs=1): lower late_phase.T0, or raise epochs.\n"
    assert "T0=300" in str(error)
    assert [path.name for path in error.parent.iterdir()] == [ERROR]
    main(*fixed, "late_phase.T0=300")
    assert not error.exists(), "a single run says it to the user"


def test_what_is_no_mistake_of_the_user_is_named_by_its_kind(tmp_path):
    with pytest.raises(ZeroDivisionError), recorded(tmp_path / ERROR):
        raise ZeroDivisionError("one\ntwo")
    assert (tmp_path / ERROR).read_text() == "ZeroDivisionError: one\n"
    for error in (Busy("by another"), KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(error)), recorded(tmp_path / ERROR):
            raise error
        assert not (tmp_path / ERROR).exists(), "it isn't this attempt's"
    with pytest.raises(UserError, match="mine"), recorded(tmp_path / "a file" / "in it"):
        (tmp_path / "a file").touch()
        raise UserError("mine")


def test_a_failed_evaluation_says_why(main, tmp_path):
    assert main(*SMALL, "hydra.run.dir=own/seed=0", "dataset.validation=20")[0] == 0
    (error := tmp_path / "own" / "seed=0" / "evaluation" / f"flatness.{ERROR}").parent.mkdir()
    main("-m", "run=own/seed=0", "suite=flatness", "flatness.draws=1", script="scripts/evaluate.py")
    assert error.read_text().startswith("flatness.sigmas=") and "at least 2 draws" in error.read_text()
    assert main("-m", "run=own/seed=0", "suite=flatness", "flatness.draws=2", script="scripts/evaluate.py")[0] == 0
    assert not error.exists()


def test_a_job_that_another_sweep_is_at_is_waited_for(main, tmp_path, monkeypatch):
    from late_phase.runs.directory import RunDirectory

    monkeypatch.setattr(hydra_jobs, "WAIT", 0.05)
    assert main("-m", *SMALL, "seed=0")[0] == 0
    (metrics,) = tmp_path.glob("outputs/**/metrics.json")
    before = metrics.stat().st_mtime_ns
    entered, ended = threading.Event(), []

    def other() -> None:
        with RunDirectory(metrics.parent).locked():
            entered.set()
            time.sleep(0.5)
            ended.append(time.monotonic())

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    assert main("-m", *SMALL, "seed=0")[0] == 0
    assert time.monotonic() > ended[0] and metrics.stat().st_mtime_ns == before
    thread.join()
    with RunDirectory(metrics.parent).locked():
        assert "in use by another process" in str(main(*SMALL, "seed=0", f"hydra.run.dir={metrics.parent}")[0])
