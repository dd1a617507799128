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
    """A run that a table needs, for one row or several.

    Attributes:
        overrides: of ``train.py``, but for the seed.
        directory: the run's.
        expected: hash of the config that it has to have.
    """

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
        rows: row -> its runs; rows may share them.
        folders: row -> where its directories ``seed=<n>`` are.
        seeds: row -> its seeds.
        without: row -> why it has no runs.
    """

    jobs: dict[Job, str]
    rows: dict[str, list[Job]]
    folders: dict[str, Path]
    seeds: dict[str, list[int]]
    without: dict[str, str]

    def done(self, row: str) -> list[int]:
        """Seeds of a row whose runs are finished."""
        return [job.seed for job in self.rows[row] if self.jobs[job] == "done"]

    def by_overrides(self, *states: str) -> dict[tuple[str, ...], list[Job]]:
        """The runs in these states, those together that differ in the seed only."""
        found: dict[tuple[str, ...], list[Job]] = {}
        for job, state in self.jobs.items():
            if state in states:
                found.setdefault(job.overrides, []).append(job)
        return found

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
    planned = Plan({}, {}, {}, {}, {})
    composed: dict[tuple[str, ...], DictConfig] = {}  # rows share configs
    for row in table.rows:
        overrides = (f"+experiment={row.experiment}", *extra, *row.overrides)
        planned.folders[row.name] = folder = outputs / row.experiment / variant(list(overrides))
        planned.seeds[row.name] = list(seeds or row.seeds or table.seeds)
        planned.rows[row.name] = own = []
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
            own.append(job := Job(overrides, seed, folder / f"seed={seed}", expected))
            if job not in planned.jobs:
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
    done = planned.by_overrides("done")
    for overrides, left in planned.by_overrides(*STATES[1:]).items():
        rows = "; ".join(row for row, own in planned.rows.items() if not set(own).isdisjoint(left))
        seeds = {state: [str(job.seed) for job in left if planned.jobs[job] == state] for state in STATES}
        told = "; ".join(f"seed{'s' * (len(own) > 1)} {', '.join(own)} {state}" for state, own in seeds.items() if own)
        took = [RunDirectory(job.directory).read_metrics()["seconds"] for job in done.get(overrides, [])]
        cost = f", about {duration(len(left) * statistics.mean(took))}" if took else ""
        lines.append(f"  {rows}: {' '.join(overrides)}, {told}{cost}")
    return "\n".join([*lines, *(f"  {row}: no runs, as {reason}" for row, reason in planned.without.items())])


def training(planned: Plan, launcher: str, outputs: Path) -> list[list[str]]:
    """Command lines of ``train.py`` for all runs that are missing or begun: a sweep over seeds for each config.

    Raises:
        UserError: a run is there with another config.
    """
    if stale := [job.directory for job, state in planned.jobs.items() if state == "stale"]:
        others = f" and {len(stale) - 1} others hold runs" if len(stale) > 1 else " holds a run"
        raise UserError(
            f"{stale[0]}{others} with another config than the table has now: move them away, or name another folder with --outputs."
        )
    quiet = ["runtime.progress=false"] if launcher == "joblib" else []  # several bars at once
    how = [f"hydra.sweep.dir={outputs}", *launched_by(launcher), *quiet]
    return [
        ["train.py", "-m", *how, *overrides, f"seed={','.join(str(job.seed) for job in jobs)}"]
        for overrides, jobs in planned.by_overrides("begun", "missing").items()
    ]


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
