"""Plans of tables: which runs a table needs, and the state of each run."""

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
"""The states of a run.

done: finished. running: another process is training it. begun: interrupted, and can be resumed. failed: ended by an error.
stale: finished or begun with another config. missing: not started.
"""


@dataclass(frozen=True)
class Job:
    """A run that a table needs, for one row or several.

    Attributes:
        overrides: overrides of ``train.py``, without the seed.
        directory: the run directory.
        expected: hash of the config that the run must have.
        epochs: length of the run.
        begins_from_another: whether another run must be finished before.
    """

    overrides: tuple[str, ...]
    seed: int
    directory: Path
    expected: str
    epochs: int
    begins_from_another: bool = False

    def state(self) -> str:
        """Returns the present state, one of :data:`STATES`.

        Raises:
            UserError: a file of the run is damaged.
        """
        files = RunDirectory(self.directory)
        if files.config.exists():
            if _hash(files.config, files.config.stat().st_mtime_ns) != self.expected:
                return "stale"
            if files.read_metrics() is not None:
                return "done"
        elif files.metrics.exists():  # its config is unknown
            return "stale"
        elif not files.error.exists():
            return "missing"
        try:
            with files.locked():
                return "failed" if files.error.exists() else "begun"
        except Busy:
            return "running"

    def error(self) -> str:
        """Says why the run failed; empty if it has been started again since."""
        try:
            return RunDirectory(self.directory).error.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""


@functools.cache
def _hash(config: Path, _changed: int) -> str:
    """Returns the hash of a run's config. It is cached, because reading takes long and tables share runs."""
    return config_hash(from_yaml(config))


@dataclass(frozen=True)
class Plan:
    """The runs that a table needs.

    Attributes:
        jobs: run -> state, in an order in which the runs can be trained.
        rows: row -> its runs. Rows may share runs. A run that only other runs begin from may belong to no row.
        folders: row -> the folder that has its directories ``seed=<n>``.
        seeds: row -> its seeds.
        without: row -> why it has no runs.
        impossible: row -> suite -> why the suite can't evaluate the row's runs.
    """

    jobs: dict[Job, str] = field(default_factory=dict)
    rows: dict[str, list[Job]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    impossible: dict[str, dict[str, str]] = field(default_factory=dict)

    def in_state(self, row: str, state: str) -> list[Job]:
        """Returns the runs of a row that are in this state."""
        return [job for job in self.rows[row] if self.jobs[job] == state]

    def codes(self) -> dict[str, list[Path]]:
        """Returns hash of the code -> finished runs that it made, see :func:`late_phase.runs.provenance.code_digest`."""
        found: dict[str, list[Path]] = {}
        for job, state in self.jobs.items():
            if state == "done":
                found.setdefault(code_of(RunDirectory(job.directory).read_metrics()), []).append(job.directory)
        return found

    def by_overrides(self, *states: str) -> dict[tuple[str, ...], list[Job]]:
        """Returns the runs in these states, grouped by their overrides: runs in a group differ only in the seed."""
        found: dict[tuple[str, ...], list[Job]] = {}
        for job, state in self.jobs.items():
            if state in states:
                found.setdefault(job.overrides, []).append(job)
        return found

    def now(self) -> Plan:
        """Returns the same plan with the present states of the runs."""
        return replace(self, jobs={job: job.state() for job in self.jobs})


def refuse_mixture(planned: Plan, training: bool) -> None:
    """Refuses runs by different versions of the code in one table.

    Args:
        training: whether missing runs will be trained, by the present version.

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
            f"some runs of this table were made by another version of the code ({told}): move them away to train them again, or "
            "allow them with --mixed, which the table then notes."
        )


def refuse_stale(planned: Plan) -> None:
    """Refuses to train where a run with another config is in the way.

    Raises:
        UserError: there is such a run.
    """
    if stale := [job.directory for job, state in planned.jobs.items() if state == "stale"]:
        others = f" and {len(stale) - 1} others hold runs" if len(stale) > 1 else " holds a run"
        raise UserError(
            f"{stale[0]}{others} with another config than the table has now: move them away, or give another folder with --outputs."
        )


def summary(planned: Plan) -> str:
    """Says how many runs are in each state, which ones aren't done, and how long these take, one after the other.

    The estimate uses the seconds per epoch of finished runs with the same overrides, or else of all finished runs of the table.
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
        lines.append(f"  {rows or 'starting weights'}: {' '.join(overrides)}, {told}{cost}")
    return "\n".join([*lines, *(f"  {row}: no runs, because {reason}" for row, reason in planned.without.items())])


def seconds_per_epoch(done: Sequence[Job]) -> float:
    """Returns the mean seconds per epoch of finished runs."""
    return statistics.mean(RunDirectory(job.directory).read_metrics()["seconds"] / job.epochs for job in done)


def collected(table: Table, planned: Plan, scale: str = "") -> dict[str, Numbers]:
    """Returns row -> numbers of its finished runs.

    Args:
        scale: a name in ``configs/scale``; empty for the paper's scale.
    """
    found = {}
    for row in table.rows:
        done = [job.seed for job in planned.in_state(row.name, "done")]
        epochs = next((job.epochs for job in planned.rows[row.name]), 0)
        numbers = collect(table, row, planned.folders[row.name], planned.seeds[row.name], done, epochs, scale)
        failed = {f"seed {job.seed}": job.error() for job in planned.in_state(row.name, "failed")}
        lacking = planned.impossible.get(row.name, {})
        unable = {key: lacking[column.suite] for key, column in table.columns_of(row).items() if column.suite in lacking}
        found[row.name] = replace(
            numbers,
            without=planned.without.get(row.name, ""),
            failed=failed | numbers.failed,
            impossible=numbers.impossible | unable,
        )
    return found
