"""Simulates the noisy quadratic problem: ``python scripts/nqp.py [KEY=VALUE ...]``; sweeps are written as ``-m K=1,2,5,10``.

``configs/nqp.yaml`` lists the keys. ``task=figure1`` draws Figure 1, as ``make figure1`` does. ``task=speed`` compares the
vectorised simulator with a plain loop.
"""

import os

# One thread for each process, as the matrices are small. numpy reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from late_phase.command_line.hydra_jobs import as_dataclass, job, start
from late_phase.nqp.config import NqpConfig
from late_phase.nqp.cost import check_settings
from late_phase.nqp.settings import Settings
from late_phase.runs.provenance import git_commit
from late_phase.support.console import duration
from late_phase.support.devices import cores
from late_phase.support.errors import UserError
from late_phase.support.files import check_file, write_json

ConfigStore.instance().store(group="schema", name="nqp", node=NqpConfig)


def provenance(began: float) -> dict[str, Any]:
    times = os.times()
    return {
        "command": " ".join(["python scripts/nqp.py", *sys.argv[1:]]),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(times[:4]), 1),  # of this process and its workers only
    }


@hydra.main(version_base="1.3", config_path="../configs", config_name="nqp")
def main(composed: DictConfig) -> None:
    with job():
        run(as_dataclass(composed))


def run(config: NqpConfig) -> None:
    tasks = {"measure": measure_point, "figure1": draw_figure1, "speed": compare_speed}
    if config.task not in tasks:
        raise UserError(f"task={config.task} is unknown: choose one of {', '.join(tasks)}.")
    settings = Settings(**{key: getattr(config, key) for key in Settings.__dataclass_fields__})
    tasks[config.task](config, settings, time.monotonic())


# The tasks import late: it takes long, and reading the command line doesn't need it.


def measure_point(config: NqpConfig, settings: Settings, began: float) -> None:
    from late_phase.nqp.measure import measure, plan

    output = Path(config.output)
    announce("the closed form", check_settings(settings))
    planned = plan(settings)
    check_file("output", config.output, output)
    announce(f"{planned.burn_in + planned.window:,} steps", planned.seconds)
    measurement = measure(planned)
    print(measurement.line(), flush=True)
    write_json(output, provenance(began) | measurement.record())


def draw_figure1(config: NqpConfig, settings: Settings, began: float) -> None:
    from late_phase.nqp.figure import Figure1, closed_form_seconds, measure_figure1, plan_figure1, plot_figure1

    folder = Path(config.figure1.folder)
    announce("the closed form", closed_form_seconds(settings, config.figure1))
    plans, numbers = plan_figure1(settings, config.figure1), folder / "nqp" / "figure1.json"
    pictures = [folder / "figures" / f"figure1.{suffix}" for suffix in ("svg", "png")]
    for path in (numbers, *pictures):
        check_file("figure1.folder", config.figure1.folder, path)
    steps = f"{sum(p.burn_in + p.window for p in plans):,} steps"
    announce(steps, sum(p.seconds for p in plans) / min(config.figure1.workers, cores()))
    for result in measure_figure1(plans, config.figure1):
        if isinstance(result, Figure1):
            plot_figure1(result, pictures)
            write_json(numbers, provenance(began) | {"settings": asdict(config)} | result.record())
            print("slope of late phase {:.4f} ± {:.4f}".format(*result.slope()), f"in {folder}/, {time.monotonic() - began:.0f} s")
        else:
            print(result.line(), flush=True)


def compare_speed(config: NqpConfig, settings: Settings, began: float) -> None:
    from late_phase.nqp.speed import compare

    output = Path(config.output)
    check_file("output", config.output, output)
    record = compare()
    print(
        "loop / vectorised at K={K}, {repetitions} repetitions: {ratio:.1f}".format(**record),
        "({:.1f} to {:.1f})".format(*record["interval"]),
    )
    write_json(output, provenance(began) | record)


def announce(what: str, seconds: float) -> None:
    """Says on standard error how long the next step will take, if that is more than a minute."""
    if seconds > 60:
        print(f"{what} will take about {duration(seconds)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    start(main, NqpConfig)
