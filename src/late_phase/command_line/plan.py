"""Which runs a table needs, which of them are there, and the commands for the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from late_phase.command_line.explain import explained
from late_phase.command_line.hydra_jobs import as_train_config
from late_phase.command_line.overrides import literal, variant
from late_phase.config.identity import config_hash
from late_phase.reporting.tables import Numbers, Table, collect, result_of
from late_phase.runs.config_file import from_yaml
from late_phase.support.console import duration
from late_phase.support.errors import UserError
from late_phase.support.files import read_json

STATES = ("done", "running", "begun", "stale", "missing")
"""Of a run: finished; at work; interrupted, to be resumed; finished or begun with another config; not there."""


@dataclass(frozen=True)
class Job:
    """A run that a table needs.

    Attributes:
        overrides: of ``train.py``, but for the seed.
        directory: the run's.
        state: one of :data:`STATES`.
        seconds: that it took, where it is done.
    """

    row: str
    overrides: tuple[str, ...]
    seed: int
    directory: Path
    state: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a table needs.

    Attributes:
        jobs: all runs, in the order of the rows.
        folders: row -> where its directories ``seed=<n>`` are.
        seeds: row -> its seeds.
        without: row -> why it has no runs.
    """

    jobs: list[Job]
    folders: dict[str, Path]
    seeds: dict[str, list[int]]
    without: dict[str, str]

    def done(self, row: str) -> list[int]:
        """Seeds of a row whose runs are finished."""
        return [job.seed for job in self.jobs if job.row == row and job.state == "done"]


def plan(table: Table, extra: Sequence[str], seeds: Sequence[int] | None, configs: Path, outputs: Path) -> Plan:
    """The runs of a table.

    Args:
        extra: overrides for all rows, such as a scale; those of a row come after them.
        seeds: instead of the rows' own.
    """
    planned = Plan([], {}, {}, {})
    for row in table.rows:
        overrides = [*extra, *row.overrides]
        planned.folders[row.name] = folder = outputs / row.experiment / variant(overrides)
        planned.seeds[row.name] = list(seeds or row.seeds or table.seeds)
        try:
            if not row.experiment:
                raise UserError("nothing is trained")
            with explained(), initialize_config_dir(str(configs.resolve()), version_base="1.3"):
                composed = compose("train", [f"+experiment={row.experiment}", *overrides])
            hashes = [with_seed(composed, seed) for seed in planned.seeds[row.name]]
        except UserError as error:
            planned.without[row.name] = str(error)
            continue
        for seed, expected in zip(planned.seeds[row.name], hashes, strict=True):
            state, seconds = state_of(folder / f"seed={seed}", expected)
            own = (f"+experiment={row.experiment}", *overrides)
            planned.jobs.append(Job(row.name, own, seed, folder / f"seed={seed}", state, seconds))
    return planned


def with_seed(composed: DictConfig, seed: int) -> str:
    """The hash of the composed config with this seed."""
    copy = composed.copy()
    OmegaConf.update(copy, "seed", seed)
    return config_hash(as_train_config(copy))


def state_of(directory: Path, expected: str) -> tuple[str, float | None]:
    """The state of the run in a directory, and the seconds that it took if it is done.

    Args:
        expected: hash of the config that it has to have.
    """
    if not (directory / "config.yaml").exists():
        return "missing", None
    if config_hash(from_yaml(directory / "config.yaml")) != expected:
        return "stale", None
    record: dict[str, Any] | None = read_json(directory / "metrics.json")
    if record is not None:
        return "done", record.get("seconds")
    if (directory / ".lock").exists():
        try:
            with FileLock(directory / ".lock", timeout=0):
                pass
        except Timeout:
            return "running", None
    return "begun", None


def summary(planned: Plan) -> str:
    """How many runs there are in each state; which aren't done, and how long they will take, going by those that are."""
    jobs = planned.jobs
    counts = {state: sum(job.state == state for job in jobs) for state in STATES}
    lines = [f"{len(jobs)} runs: " + (", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none")]
    for row in planned.folders:
        own = [job for job in jobs if job.row == row]
        if left := [job for job in own if job.state != "done"]:
            took = [job.seconds for job in own if job.seconds]
            cost = f", about {duration(len(left) * statistics.mean(took))}" if took else ""
            seeds = ", ".join(f"{job.seed} {job.state}" for job in left)
            lines.append(f"  {row}: {' '.join(left[0].overrides)}, seed {seeds}{cost}")
        if row in planned.without:
            lines.append(f"  {row}: no runs, as {planned.without[row]}")
    return "\n".join(lines)


def training(planned: Plan, launcher: str, outputs: Path) -> list[list[str]]:
    """Command lines of ``train.py`` for all runs that are missing or begun: a sweep over seeds for each config.

    Raises:
        UserError: a run is there with another config.
    """
    if stale := [job for job in planned.jobs if job.state == "stale"]:
        raise UserError(
            f"{stale[0].directory} holds a run with another config than {stale[0].row} has now, as do {len(stale) - 1} others: "
            "move them away, or name another folder with --outputs."
        )
    seeds: dict[tuple[str, ...], list[int]] = {}
    for job in planned.jobs:
        if job.state in ("begun", "missing") and job.seed not in seeds.setdefault(job.overrides, []):  # rows share runs
            seeds[job.overrides].append(job.seed)
    how = [f"hydra.sweep.dir={outputs}"]
    if launcher != "basic":
        how += [f"hydra/launcher={launcher}", "runtime.threads=1", "runtime.progress=false"]
    return [["train.py", "-m", *how, *overrides, f"seed={','.join(map(str, own))}"] for overrides, own in seeds.items()]


def evaluation(table: Table, planned: Plan, launcher: str) -> list[list[str]]:
    """Command lines of ``scripts/evaluate.py`` for all results that the table needs, that can be had, and that aren't there."""
    runs: dict[str, list[Path]] = {}
    commands: list[list[str]] = []
    for row in table.rows:
        folder, seeds, done = planned.folders[row.name], planned.seeds[row.name], planned.done(row.name)
        for suite in dict.fromkeys(column.suite or "accuracy" for column in table.columns.values() if column.suite or row.together):
            if not row.together:
                left = [folder / f"seed={seed}" for seed in done if not result_of(folder, [seed], suite).exists()]
                runs.setdefault(suite, []).extend(left)
            elif done == seeds and not result_of(folder, seeds, suite).exists():
                commands.append(["scripts/evaluate.py", f"run={folder}", f"seeds={seeds}", f"suite={suite}"])
    how = [] if launcher == "basic" else [f"hydra/launcher={launcher}", "runtime.threads=1"]
    for suite, paths in runs.items():
        if named := ",".join(literal(str(path)) for path in dict.fromkeys(paths)):  # rows share runs
            commands.append(["scripts/evaluate.py", "-m", *how, f"run={named}", f"suite={suite}"])
    return commands


def collected(table: Table, planned: Plan) -> dict[str, Numbers]:
    """The numbers of all rows."""
    found = {}
    for row in table.rows:
        where = (planned.folders[row.name], planned.seeds[row.name], planned.done(row.name))
        found[row.name] = collect(table, row, *where, planned.without.get(row.name, ""))
    return found
