"""Which runs a table needs, and which of them are there."""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from late_phase.config.identity import config_hash
from late_phase.reporting.numbers import Numbers, code_of, collect
from late_phase.reporting.table_config import Table
from late_phase.runs.config_file import from_yaml
from late_phase.runs.directory import RunDirectory
from late_phase.runs.provenance import code_digest
from late_phase.support.console import duration
from late_phase.support.errors import Busy, UserError

STATES = ("done", "running", "begun", "failed", "stale", "missing")
"""Of a run: finished; at work; interrupted, to be resumed; ended by an error; finished or begun with another config; not there."""


@dataclass(frozen=True)
class Job:
    """A run that a table needs, for one row or several.

    Attributes:
        overrides: of ``train.py``, but for the seed.
        directory: the run's.
        expected: hash of the config that it has to have.
        epochs: how long it is.
        begins_from_another: whether it needs another run to be finished.
    """

    overrides: tuple[str, ...]
    seed: int
    directory: Path
    expected: str
    epochs: int
    begins_from_another: bool = False

    def state(self) -> str:
        """One of :data:`STATES`, as it is now.

        Raises:
            UserError: a file of the run is damaged.
        """
        files = RunDirectory(self.directory)
        if files.config.exists():
            if _hash(files.config, files.config.stat().st_mtime_ns) != self.expected:
                return "stale"
            if files.read_metrics() is not None:
                return "done"
        elif files.metrics.exists():  # of nobody knows which config
            return "stale"
        elif not files.error.exists():
            return "missing"
        try:
            with files.locked():
                return "failed" if files.error.exists() else "begun"
        except Busy:
            return "running"

    def error(self) -> str:
        """Why it failed; empty if it has been started again since."""
        try:
            return RunDirectory(self.directory).error.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""


@functools.cache
def _hash(config: Path, _changed: int) -> str:
    """Of a run's config. Reading it takes long, and tables that share runs look at it again and again."""
    return config_hash(from_yaml(config))


@dataclass(frozen=True)
class Plan:
    """What a table needs.

    Attributes:
        jobs: all runs and their states, in an order in which they can be trained.
        rows: row -> its runs; rows may share them, and begin from those of no row.
        folders: row -> where its directories ``seed=<n>`` are.
        seeds: row -> its seeds.
        without: row -> why it has no runs.
        impossible: row -> suite -> why its runs can't be evaluated by it.
    """

    jobs: dict[Job, str] = field(default_factory=dict)
    rows: dict[str, list[Job]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, dict[str, str]] = field(default_factory=dict)

    def in_state(self, row: str, state: str) -> list[Job]:
        """The runs of a row that are in this state."""
        return [job for job in self.rows[row] if self.jobs[job] == state]

    def codes(self) -> dict[str, list[Path]]:
        """The finished runs by the code that made them: see :func:`late_phase.runs.provenance.code_digest`."""
        found: dict[str, list[Path]] = {}
        for job, state in self.jobs.items():
            if state == "done":
                found.setdefault(code_of(RunDirectory(job.directory).read_metrics()), []).append(job.directory)
        return found

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


def refuse_mixture(planned: Plan, training: bool) -> None:
    """Refuses runs by different versions of the code in one table.

    Args:
        training: whether what is missing is to be trained, by the present one.

    Raises:
        UserError: there are several versions.
    """
    codes = planned.codes()
    if training and set(planned.jobs.values()) - {"done", "running", "stale"}:
        codes.setdefault(code_digest(), [])
    if len(codes) > 1:
        old = [(code, runs) for code, runs in codes.items() if code != code_digest()]
        told = "; ".join(f"{len(runs)} by {code}, such as {runs[0]}" for code, runs in old)
        raise UserError(
            f"runs were made by another version of the code than the others of this table ({told}): move them away, and they are "
            "trained again, or mix them with --mixed; the table will say so."
        )


def refuse_stale(planned: Plan) -> None:
    """Refuses to train where a run is in the way.

    Raises:
        UserError: a run is there with another config.
    """
    if stale := [job.directory for job, state in planned.jobs.items() if state == "stale"]:
        others = f" and {len(stale) - 1} others hold runs" if len(stale) > 1 else " holds a run"
        raise UserError(
            f"{stale[0]}{others} with another config than the table has now: move them away, or name another folder with --outputs."
        )


def summary(planned: Plan) -> str:
    """How many runs there are in each state; which aren't done, and how long they will take, one after the other.

    That goes by the seconds an epoch took in runs of the same config, or else in all runs of the table that are done.
    """
    counts = Counter(planned.jobs.values())
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{len(planned.jobs)} runs: {states or 'none'}"]
    paces = {own: seconds_per_epoch(jobs) for own, jobs in planned.by_overrides("done").items()}
    for overrides, left in planned.by_overrides(*STATES[1:]).items():
        rows = "; ".join(row for row, own in planned.rows.items() if not set(own).isdisjoint(left))
        seeds = {state: [str(job.seed) for job in left if planned.jobs[job] == state] for state in STATES}
        told = "; ".join(f"seed{'s' * (len(own) > 1)} {', '.join(own)} {state}" for state, own in seeds.items() if own)
        cost = ""
        if paces:
            pace = paces.get(overrides, statistics.mean(paces.values()))
            cost = f", about {duration(pace * sum(job.epochs for job in left))}"
        lines.append(f"  {rows or 'to begin from'}: {' '.join(overrides)}, {told}{cost}")
    return "\n".join([*lines, *(f"  {row}: no runs, as {reason}" for row, reason in planned.without.items())])


def seconds_per_epoch(done: Sequence[Job]) -> float:
    """Of finished runs."""
    return statistics.mean(RunDirectory(job.directory).read_metrics()["seconds"] / job.epochs for job in done)


def collected(table: Table, planned: Plan, scale: str = "") -> dict[str, Numbers]:
    """The numbers of all rows, of the runs that are finished, at a scale, which is empty for the paper's."""
    found = {}
    for row in table.rows:
        done = [job.seed for job in planned.in_state(row.name, "done")]
        epochs = next((job.epochs for job in planned.rows[row.name]), 0)
        numbers = collect(table, row, planned.folders[row.name], planned.seeds[row.name], done, epochs, scale)
        failed = {f"seed {job.seed}": job.error() for job in planned.in_state(row.name, "failed")}
        lacking = planned.impossible.get(row.name, {})
        found[row.name] = replace(
            numbers,
            without=planned.without.get(row.name, ""),
            failed=failed | numbers.failed,
            impossible=numbers.impossible | {key: lacking[c.suite] for key, c in table.columns.items() if c.suite in lacking},
        )
    return found
