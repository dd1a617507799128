"""Command lines that make what a table lacks: trainings with ``train.py``, evaluations with ``scripts/evaluate.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from late_phase.command_line.overrides import literal
from late_phase.command_line.plan import Plan
from late_phase.reporting.numbers import read_result
from late_phase.reporting.table_config import Table


def training(planned: Plan, how: Sequence[str], outputs: Path) -> list[list[str]]:
    """Returns sweeps that train all runs that aren't done. Runs that begin from other runs come last.

    A run that another process is training counts as not done: its job waits for that process.

    Args:
        how: overrides from :func:`launched_by`.
        outputs: the folder of all runs.
    """
    quiet = ["runtime.progress=false"] if "hydra/launcher=joblib" in how else []  # bars of parallel jobs would mix
    how = [f"hydra.sweep.dir={outputs}", *how, *quiet, "~hydra.callbacks.summary"]  # the table is the summary
    left = planned.by_overrides("running", "begun", "failed", "missing")
    commands = []
    for begins_from_another in (False, True):  # a launcher may start all jobs of a sweep at once
        own = {key: [job.seed for job in jobs] for key, jobs in left.items() if jobs[0].begins_from_another == begins_from_another}
        commands += [["train.py", "-m", *how, *sweep] for sweep in sweeps(own)]
    return commands


def sweeps(left: Mapping[Sequence[str], Sequence[int]]) -> list[list[str]]:
    """Merges runs into few sweeps, because starting a sweep takes as long as a small run.

    Runs that differ only in the first override are merged first, then those that differ only in the last one.

    Args:
        left: overrides -> seeds.
    """
    found = [[*overrides, f"seed={','.join(map(str, seeds))}"] for overrides, seeds in left.items()]
    for place in (0, -2):
        groups: dict[tuple[str, ...], list[str]] = {}
        for sweep in found:
            key, _, value = sweep[place].partition("=")
            others = sweep[:place] + sweep[place + 1 :] if place else sweep[1:]
            groups.setdefault((key, *others), []).append(value)
        found = []
        for (key, *others), values in groups.items():
            merged = f"{key}={','.join(values)}"
            found.append([merged, *others] if place == 0 else [*others[:-1], merged, others[-1]])
    return found


def launched_by(launcher: str, settings: Sequence[str] = ()) -> list[str]:
    """Returns the overrides that choose a launcher of Hydra, followed by its settings. Jobs of joblib use one thread each."""
    one_each = ["runtime.threads=1"] if launcher == "joblib" else []
    return [*([] if launcher == "basic" else [f"hydra/launcher={launcher}"]), *one_each, *settings]


def evaluation(table: Table, planned: Plan, how: Sequence[str], device: Sequence[str] = ()) -> list[list[str]]:
    """Returns the commands for all possible evaluations that the table needs and that have no result yet.

    Args:
        how: overrides from :func:`launched_by`. A deep ensemble is a single job and doesn't use them.
        device: the override that names the device, or nothing.
    """
    runs: dict[str, list[Path]] = {}
    commands: list[list[str]] = []
    for row in table.rows:
        folder, seeds = planned.folders[row.name], planned.seeds[row.name]
        done = [job.seed for job in planned.in_state(row.name, "done")]
        for suite in row.suites(table.columns_of(row)):
            if suite in planned.impossible.get(row.name, {}):
                continue
            if not row.together:
                left = [folder / f"seed={seed}" for seed in done if read_result(folder, [seed], suite) is None]
                runs.setdefault(suite, []).extend(left)
            elif done == seeds and read_result(folder, seeds, suite, together=True) is None:
                named = [f"run={literal(str(folder))}", f"seeds={seeds}", f"suite={suite}"]
                commands.append(["scripts/evaluate.py", "-m", *device, *named])
    for suite, paths in runs.items():
        if named := ",".join(literal(str(path)) for path in dict.fromkeys(paths)):  # rows share runs
            commands.append(["scripts/evaluate.py", "-m", *how, *device, f"run={named}", f"suite={suite}"])
    return commands
