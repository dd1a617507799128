"""Plans tables: finds the config and the directory of each run, and the rows that share it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf

from late_phase import data
from late_phase.command_line.explain import explained
from late_phase.command_line.hydra_jobs import as_train_config
from late_phase.command_line.overrides import PARSER, as_in_sweeps, check_read, literal, unread, variant
from late_phase.command_line.plan import Job, Plan
from late_phase.config.choices import CHOICES
from late_phase.config.identity import config_hash
from late_phase.config.training import TrainConfig
from late_phase.reporting.table_config import Row, Table, seeds_of

Overrides = tuple[str, ...]

NEEDED_BY = {"ood": (data.OOD, "no usual out-of-distribution images"), "corruption": (data.CORRUPTED_OF, "no corrupted images")}
"""Suite -> the datasets that it can evaluate, and the reason why it can't evaluate others."""


@dataclass
class Planner:
    """Plans the runs of tables.

    Attributes:
        configs, outputs: folders of configs and of runs.
        scale: a name in ``configs/scale``; empty for the paper's scale.
        extra: overrides of all rows; a row's own overrides come after them.
        own_data: kind of task -> overrides that choose the user's own data for runs of this kind.
        seeds: the seeds of all rows; empty for the seeds that the tables name.
    """

    configs: Path
    outputs: Path
    scale: str = ""
    extra: Sequence[str] = ()
    own_data: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    _composed: dict[Overrides, DictConfig] = field(default_factory=dict)
    _hashed: dict[tuple[Overrides, int], tuple[TrainConfig, str]] = field(default_factory=dict)
    _owners: dict[str, Overrides] = field(default_factory=dict)  # hash of a config -> the overrides that name its folder

    def overrides(self, table: Table, kind: str) -> list[str]:
        """Returns the overrides that all of a table's runs of one kind of task share."""
        scale = [f"+scale={table.scale(self.scale)}"] if self.scale else []
        return [*map(as_in_sweeps, [*scale, *self.own_data.get(kind, ()), *self.extra])]

    def kinds(self, table: Table) -> list[str]:
        """Returns the kinds of task that a table's runs have."""
        return list(dict.fromkeys(self._kind(row.experiment) for row in table.rows if row.experiment))

    def _kind(self, experiment: str) -> str:
        if not self.own_data:  # nobody asks, and composing takes time
            return ""
        dataset = self._compose((f"+experiment={experiment}",)).dataset.name
        return CHOICES["dataset"][dataset].config.task

    def changes(self, table: Table) -> list[str]:
        """Returns the overrides that change what the runs compute. Files that a table needs don't, if they have its names."""
        needed: set[str] = set()
        for kind, name in table.files.items():
            given = [*map(as_in_sweeps, self.own_data.get(kind, ()))]
            if any(own.rstrip("'").endswith((f"/{name}", f"={name}", f"='{name}")) for own in given):
                needed.update(given)
        shared = dict.fromkeys(own for kind in self.kinds(table) for own in self.overrides(table, kind))
        return [own for own in shared if variant([own]) != variant([]) and own not in needed]

    def plan(self, tables: Sequence[Table]) -> list[Plan]:
        """Returns the plans of tables. Rows with the same config share the runs of the row that has the most seeds.

        Raises:
            UserError: the config of a row can't work, or a file of a run is damaged.
        """
        rows = [(table, row) for table in tables for row in table.rows if not self._without(row)]
        rows.sort(key=lambda own: -len(self._seeds(*own)))
        for own in rows:
            self._own(self._base(*own) if own[1].begins_from else self._row(*own))
        for own in rows:
            self._own(self._row(*own))  # the folders of the runs that others begin from are known by now
        return [self._plan(table) for table in tables]

    def _own(self, overrides: Overrides) -> None:
        """Records the overrides that name a config's folder: the first ones count."""
        self._owners.setdefault(self._config(overrides)[1], overrides)

    def _owner(self, overrides: Overrides) -> Overrides:
        return self._owners.get(self._config(overrides)[1], overrides)

    def _plan(self, table: Table) -> Plan:
        planned = Plan()
        for row in table.rows:
            planned.seeds[row.name] = seeds = self._seeds(table, row)
            planned.rows[row.name] = []
            planned.folders[row.name] = self.outputs / row.experiment  # has no runs; replaced below if the row has some
            if reason := self._without(row):
                planned.without[row.name] = reason
                continue
            overrides = self._row(table, row)
            before = self._jobs(self._base(table, row), seeds) if row.begins_from else []
            planned.rows[row.name] = jobs = self._jobs(overrides, seeds, begins_from_another=bool(before))
            planned.jobs.update(dict.fromkeys([*before, *jobs], "missing"))
            planned.folders[row.name] = jobs[0].directory.parent
            dataset = self._compose(overrides).dataset.name
            suites = {column.suite for column in table.columns_of(row).values()} & NEEDED_BY.keys()
            lacking = {suite: NEEDED_BY[suite][1] for suite in suites if dataset not in NEEDED_BY[suite][0]}
            planned.impossible[row.name] = {suite: f"dataset={dataset} has {what}" for suite, what in lacking.items()}
        return planned.now()

    def _without(self, row: Row) -> str:
        """Says why a row has no runs; empty if it has some."""
        if not row.experiment:
            return "nothing is trained"
        if self.scale and row.needs and self.scale not in row.met_at:
            return f"it needs {row.needs}, which +scale={self.scale} replaces"
        return ""

    def _seeds(self, table: Table, row: Row) -> list[int]:
        return sorted(set(self.seeds or seeds_of(table, row, self.scale)))

    def _base(self, table: Table, row: Row) -> Overrides:
        """Returns the overrides of the runs that the row's runs begin from."""
        return self._runs(table, row.begins_from)

    def _runs(self, table: Table, experiment: str, own: Sequence[str] = ()) -> Overrides:
        """Returns the overrides of an experiment's runs: the table's, except those that only runs of other rows read, and ``own``.

        Raises:
            UserError: one of ``own`` changes nothing.
        """
        shared = self.overrides(table, self._kind(experiment))
        overrides = (f"+experiment={experiment}", *shared, *own)
        composed = self._compose(overrides)
        check_read(own, composed)
        ignored = unread(shared, composed)
        return tuple(override for override in overrides if override not in ignored)

    def _row(self, table: Table, row: Row) -> Overrides:
        overrides = self._runs(table, row.experiment, [*map(as_in_sweeps, row.overrides)])
        if row.begins_from:
            before = self._folder(self._base(table, row), self._seeds(table, row))
            weights = f"{self._shown(before)}/seed=${{seed}}"
            if OmegaConf.to_container(self._compose(overrides))["architecture"]["weights"] != weights:
                overrides += (f"architecture.weights={literal(weights)}",)
        return overrides

    def _jobs(self, overrides: Overrides, seeds: Sequence[int], begins_from_another: bool = False) -> list[Job]:
        """Returns a run for each seed."""
        folder, owner, jobs = self._folder(overrides, seeds), self._owner(overrides), []
        for seed in seeds:
            config, expected = self._config(overrides, seed)
            jobs.append(Job(owner, seed, folder / f"seed={seed}", expected, config.epochs, begins_from_another))
        return jobs

    def _folder(self, overrides: Overrides, seeds: Sequence[int]) -> Path:
        """Returns the folder of a config's runs.

        This is the folder that the overrides name. If it has no runs for the seeds, it may be another folder, with finished runs of
        the same config for all seeds.
        """
        owner = self._owner(overrides)
        own = self.outputs / owner[0].partition("=")[2] / variant(list(owner))
        if not any((own / f"seed={seed}").exists() for seed in seeds):
            folders = {self._finished.get(self._config(overrides, seed)[1]) for seed in seeds}
            if len(folders) == 1 and None not in folders:
                return folders.pop()
        return own

    @cached_property
    def _finished(self) -> dict[str, Path]:
        """Hash of a config -> the folder of a finished run with it."""
        found = {}
        for path in sorted(self.outputs.glob("*/*/seed=*/metrics.json")):
            try:
                found[json.loads(path.read_text(encoding="utf-8"))["config_hash"]] = path.parent.parent
            except (OSError, ValueError, KeyError, TypeError):  # damaged: no other row can use it
                continue
        return found

    def _compose(self, overrides: Overrides) -> DictConfig:
        """Returns the config as Hydra composes it.

        Composing takes a quarter of a second. Configs that differ only in values, not in choices, are therefore composed once.
        """
        if overrides not in self._composed:
            parsed = {override: PARSER.parse_override(override) for override in overrides}
            values = [own for own in parsed.values() if own.type == OverrideType.CHANGE and own.key_or_group not in CHOICES]
            choices = tuple(override for override, own in parsed.items() if own not in values)
            with explained():
                if values:
                    composed = self._compose(choices).copy()
                    for own in values:
                        OmegaConf.update(composed, own.key_or_group, own.value())
                else:
                    with initialize_config_dir(str(self.configs.resolve()), version_base="1.3"):
                        composed = compose("train", list(overrides))
            self._composed[overrides] = composed
        return self._composed[overrides]

    def _config(self, overrides: Overrides, seed: int = 0) -> tuple[TrainConfig, str]:
        """Returns the config of a run and its hash."""
        if (overrides, seed) not in self._hashed:
            copy = self._compose(overrides).copy()
            OmegaConf.update(copy, "seed", seed)
            config = as_train_config(copy)
            self._hashed[overrides, seed] = config, config_hash(config)
        return self._hashed[overrides, seed]

    def _shown(self, folder: Path) -> str:
        """Returns a folder as configs name it: relative to the folder where training starts, which is the parent of ``configs``."""
        root = self.configs.resolve().parent
        return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
