"""Summarizes a sweep of ``train.py`` at its end: prints a table, and writes it next to the runs."""

from __future__ import annotations

import os.path
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from late_phase.command_line.overrides import variant

if TYPE_CHECKING:  # slow to import, and only needed when a sweep has ended
    from late_phase.command_line.plan import Job
    from late_phase.reporting.runs import Run
    from late_phase.reporting.sweeps import Point

SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""Hydra's own sweeper. The command line tells its jobs; other sweepers choose jobs as they go."""


class NoteSweep(Callback):
    """A callback of Hydra, set in ``configs/train.yaml``: notes which sweep begins, for :func:`with_summary`."""

    begun: ClassVar[tuple[DictConfig, ConfigLoader] | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        NoteSweep.begun = config, GlobalHydra.instance().config_loader()


def with_summary(main: Callable[[], None]) -> Callable[[], None]:
    """Adds the summary of a sweep to a ``main`` that Hydra has decorated.

    Hydra's callback ``on_multirun_end`` can't do this, because Hydra doesn't call it after a failed job. The summary must then say
    which job failed.
    """

    def run() -> None:
        NoteSweep.begun = None
        try:
            main()
        except Exception:  # a job failed, and the other jobs have run
            summarize()
            raise
        summarize()

    return run


def summarize() -> None:
    """Prints the summary of the sweep that has ended. If more than the seed was swept, it is also written to a file.

    There is no summary for a single run or a single job, for jobs that another sweeper chose, or if no run is finished.
    """
    if NoteSweep.begun is None:
        return
    config, loader = NoteSweep.begun
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    given += OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    try:
        jobs = expand(config, loader, given) if config.hydra.sweeper._target_ == SWEEPER else []
    except (HydraException, OmegaConfBaseException):  # the sweep raised the same error and had no jobs
        return
    if len(jobs) < 2:
        return
    from late_phase.reporting.sweeps import figure, page
    from late_phase.support.files import atomic, write_text

    points = points_of(jobs)
    if not any(point.runs for point in points):
        return
    text = page(points)
    print(f"\n{text}", flush=True)
    if len(points) == 1:
        return
    experiments = list(dict.fromkeys(point.values["experiment"] for point in points if "experiment" in point.values))
    name = variant([*([f"experiments={','.join(experiments)}"] if experiments else []), *given])
    folder = Path(os.path.commonpath([job.directory.parent for job, _ in jobs]))
    page_file, picture_file = (folder / f"sweep-{name}.{suffix}" for suffix in ("md", "png"))
    write_text(page_file, f"`{shlex.join(['train.py', '-m', *given])}`\n\n{text}\n")
    if picture := figure(points):
        with atomic(picture_file) as partial:
            picture.savefig(partial, format="png", dpi=150)
    print(f"in {page_file}{' and .png' if picture else ''}", flush=True)


def expand(config: DictConfig, loader: ConfigLoader, given: list[str]) -> list[tuple[Job, dict[str, str]]]:
    """Returns the jobs of a sweep as Hydra's launchers compose them, each with its values of the swept keys.

    The values are as the user wrote them. Only keys that change the run count, without the seed; :func:`variant` names them, too.

    Args:
        config: the config of the sweep.
        given: the overrides of the sweep.

    Raises:
        HydraException, OmegaConfBaseException: Hydra can't start this sweep.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = OverridesParser.create(config_loader=loader).parse_overrides(given)
    keys = {override.get_key_element(): override for override in overrides}  # if a key is given twice, Hydra takes the last one
    swept = {
        key: override.key_or_group.removeprefix("late_phase.")
        for key, override in keys.items()
        if override.is_sweep_override()
        and (override.key_or_group == "experiment" or variant([f"{override.key_or_group}=0"]) != variant([]))
    }
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    jobs = []
    for n, own in enumerate(batch):
        values = dict(override.split("=", 1) for override in own)
        jobs.append((compose_job(config, loader, n, own), {name: values[key] for key, name in swept.items()}))
    return jobs


def compose_job(config: DictConfig, loader: ConfigLoader, n: int, overrides: list[str]) -> Job:
    """Returns the nth job of a sweep, with the directory that the config gives it, even if the user has changed that.

    The ids that a launcher gives its jobs are unknown here. Runs in directories with such names are therefore not found.

    Raises:
        HydraException, OmegaConfBaseException: Hydra can't compose this job.
    """
    from late_phase.command_line.hydra_jobs import as_dataclass
    from late_phase.command_line.plan import Job
    from late_phase.config.identity import config_hash
    from late_phase.config.pace import at_pace
    from late_phase.support.errors import UserError

    composed = loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.num = composed.hydra.job.id = n
        HydraConfig.instance().set_config(composed)  # directories may refer to it
        directory = Path(str(composed.hydra.sweep.dir)) / str(composed.hydra.sweep.subdir)
        del composed["hydra"]
    try:
        config_of_run = at_pace(as_dataclass(composed))
        expected, epochs = config_hash(config_of_run), config_of_run.epochs
    except (UserError, OmegaConfBaseException):  # the job failed with this error, and no run has such a config
        expected, epochs = "", 0
    return Job(tuple(overrides), composed.seed, directory, expected, epochs)


def points_of(jobs: list[tuple[Job, dict[str, str]]]) -> list[Point]:
    """Groups the jobs by the values of the keys that have several values, in the order of the jobs."""
    from late_phase.reporting.sweeps import Point

    several = [key for key in jobs[0][1] if len({values[key] for _, values in jobs}) > 1]
    groups: dict[tuple[str, ...], dict[Path, Job]] = {}
    for job, values in jobs:
        groups.setdefault(tuple(values[key] for key in several), {})[job.directory] = job
    points = []
    for values, own in groups.items():
        points.append(point := Point(dict(zip(several, values, strict=True)), [], {}))
        for job in own.values():
            if isinstance(found := finished(job), str):
                point.unfinished[job.seed] = found
            else:
                point.runs.append(found)
    return points


def finished(job: Job) -> Run | str:
    """Returns the run of a job, or its state if it isn't finished."""
    from late_phase.reporting.runs import read_run
    from late_phase.support.errors import UserError

    try:
        state = job.state()
        if state == "done":
            return read_run(job.directory / "metrics.json")
        return f"failed: {job.error().rstrip('.')}" if state == "failed" else state
    except UserError:
        return "damaged"
