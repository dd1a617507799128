"""Which runs a table needs, which of them are there, and the commands for the others."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from late_phase.command_line.explain import explained
from late_phase.command_line.hydra_jobs import as_train_config
from late_phase.command_line.overrides import literal, variant
from late_phase.config.identity import config_hash
from late_phase.reporting.table_config import Table
from late_phase.reporting.tables import Numbers, collect, read_result
from late_phase.runs.config_file import from_yaml
from late_phase.runs.directory import RunDirectory
from late_phase.support.console import duration
from late_phase.support.errors import UserError

STATES = ("done", "running", "begun", "stale", "missing")
"""Of a run: finished; at work; interrupted, to be resumed; finished or begun with another config; not there."""


@dataclass(frozen=True)
class Job:
    """A run that a table needs.

    Attributes:
        overrides: of ``train.py``, but for the seed.
        directory: the run's.
        expected: hash of the config that it has to have.
    """

    row: str
    overrides: tuple[str, ...]
    seed: int
    directory: Path
    expected: str

    def state(self) -> str:
        """One of :data:`STATES`, as it is now.

        Raises:
            UserError: a file of the run is damaged.
        """
        files = RunDirectory(self.directory)
        if not files.config.exists():
            return "missing"
        if config_hash(from_yaml(files.config)) != self.expected:
            return "stale"
        if files.read_metrics() is not None:
            return "done"
        try:
            with files.locked():
                return "begun"
        except UserError:
            return "running"


@dataclass(frozen=True)
class Plan:
    """What a table needs.

    Attributes:
        jobs: all runs and their states, in the order of the rows.
        folders: row -> where its directories ``seed=<n>`` are.
        seeds: row -> its seeds.
        without: row -> why it has no runs.
    """

    jobs: dict[Job, str]
    folders: dict[str, Path]
    seeds: dict[str, list[int]]
    without: dict[str, str]

    def done(self, row: str) -> list[int]:
        """Seeds of a row whose runs are finished."""
        return [job.seed for job, state in self.jobs.items() if job.row == row and state == "done"]

    def now(self) -> Plan:
        """The same with the states that the runs have by now."""
        return replace(self, jobs={job: job.state() for job in self.jobs})


def plan(table: Table, extra: Sequence[str], seeds: Sequence[int] | None, configs: Path, outputs: Path) -> Plan:
    """The runs of a table.

    Args:
        extra: overrides for all rows, such as a scale; those of a row come after them.
        seeds: instead of the rows' own.

    Raises:
        UserError: a file of a run is damaged.
    """
    planned = Plan({}, {}, {}, {})
    composed: dict[tuple[str, ...], DictConfig] = {}  # rows share configs
    for row in table.rows:
        overrides = (f"+experiment={row.experiment}", *extra, *row.overrides)
        planned.folders[row.name] = folder = outputs / row.experiment / variant(list(overrides))
        planned.seeds[row.name] = list(seeds or row.seeds or table.seeds)
        try:
            if not row.experiment:
                raise UserError("nothing is trained")
            if overrides not in composed:
                with explained(), initialize_config_dir(str(configs.resolve()), version_base="1.3"):
                    composed[overrides] = compose("train", list(overrides))
            hashes = [hash_with_seed(composed[overrides], seed) for seed in planned.seeds[row.name]]
        except UserError as error:
            planned.without[row.name] = str(error)
            continue
        for seed, expected in zip(planned.seeds[row.name], hashes, strict=True):
            job = Job(row.name, overrides, seed, folder / f"seed={seed}", expected)
            planned.jobs[job] = job.state()
    return planned


def changes(extra: Sequence[str]) -> list[str]:
    """Those overrides that make other runs of a table's, in what they compute."""
    return [override for override in extra if variant([override]) != variant([])]


def hash_with_seed(composed: DictConfig, seed: int) -> str:
    copy = composed.copy()
    OmegaConf.update(copy, "seed", seed)
    return config_hash(as_train_config(copy))


def summary(planned: Plan) -> str:
    """How many runs there are in each state; which aren't done, and how long they will take, going by those that are."""
    counts = Counter(planned.jobs.values())
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{len(planned.jobs)} runs: {states or 'none'}"]
    for row in planned.folders:
        own = {job: state for job, state in planned.jobs.items() if job.row == row}
        if left := {job: state for job, state in own.items() if state != "done"}:
            took = [RunDirectory(job.directory).read_metrics()["seconds"] for job in own if job not in left]
            cost = f", about {duration(len(left) * statistics.mean(took))}" if took else ""
            seeds = ", ".join(f"{job.seed} {state}" for job, state in left.items())
            lines.append(f"  {row}: {' '.join(next(iter(left)).overrides)}, seed {seeds}{cost}")
        if row in planned.without:
            lines.append(f"  {row}: no runs, as {planned.without[row]}")
    return "\n".join(lines)


def training(planned: Plan, launcher: str, outputs: Path) -> list[list[str]]:
    """Command lines of ``train.py`` for all runs that are missing or begun: a sweep over seeds for each config.

    Raises:
        UserError: a run is there with another config.
    """
    if stale := [job for job, state in planned.jobs.items() if state == "stale"]:
        raise UserError(
            f"{stale[0].directory} holds a run with another config than {stale[0].row} has now, as do {len(stale) - 1} others: "
            "move them away, or name another folder with --outputs."
        )
    seeds: dict[tuple[str, ...], list[int]] = {}
    for job, state in planned.jobs.items():
        if state in ("begun", "missing") and job.seed not in seeds.setdefault(job.overrides, []):  # rows share runs
            seeds[job.overrides].append(job.seed)
    quiet = ["runtime.progress=false"] if launcher == "joblib" else []  # several bars at once
    how = [f"hydra.sweep.dir={outputs}", *launched_by(launcher), *quiet]
    return [["train.py", "-m", *how, *overrides, f"seed={','.join(map(str, own))}"] for overrides, own in seeds.items() if own]


def launched_by(launcher: str) -> list[str]:
    """Overrides for a launcher of Hydra's. joblib's jobs run on this machine at the same time, on one core each."""
    one_each = ["runtime.threads=1"] if launcher == "joblib" else []
    return [] if launcher == "basic" else [f"hydra/launcher={launcher}", *one_each]


def evaluation(table: Table, planned: Plan, launcher: str) -> list[list[str]]:
    """Command lines of ``scripts/evaluate.py`` for all results that the table needs, that can be had, and that aren't there."""
    runs: dict[str, list[Path]] = {}
    commands: list[list[str]] = []
    for row in table.rows:
        folder, seeds, done = planned.folders[row.name], planned.seeds[row.name], planned.done(row.name)
        for suite in dict.fromkeys(column.suite or "accuracy" for column in table.columns.values() if column.suite or row.together):
            if not row.together:
                left = [folder / f"seed={seed}" for seed in done if read_result(folder, [seed], suite) is None]
                runs.setdefault(suite, []).extend(left)
            elif done == seeds and read_result(folder, seeds, suite) is None:
                commands.append(["scripts/evaluate.py", f"run={folder}", f"seeds={seeds}", f"suite={suite}"])
    for suite, paths in runs.items():
        if named := ",".join(literal(str(path)) for path in dict.fromkeys(paths)):  # rows share runs
            commands.append(["scripts/evaluate.py", "-m", *launched_by(launcher), f"run={named}", f"suite={suite}"])
    return commands


def collected(table: Table, planned: Plan) -> dict[str, Numbers]:
    """The numbers of all rows."""
    found = {}
    for row in table.rows:
        where = (planned.folders[row.name], planned.seeds[row.name], planned.done(row.name))
        found[row.name] = collect(table, row, *where, planned.without.get(row.name, ""))
    return found
