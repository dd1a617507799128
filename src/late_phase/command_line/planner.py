"""Plans tables: what the config of each run is, where the run belongs, and which rows share it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf

from late_phase import data
from late_phase.command_line.explain import explained
from late_phase.command_line.hydra_jobs import as_train_config
from late_phase.command_line.overrides import PARSER, as_in_sweeps, literal, variant
from late_phase.command_line.plan import Job, Plan
from late_phase.config.choices import CHOICES
from late_phase.config.identity import config_hash
from late_phase.config.training import TrainConfig
from late_phase.reporting.table_config import Row, Table, seeds_of

Overrides = tuple[str, ...]

NEEDED_BY = {"ood": (data.OOD, "no usual out-of-distribution images"), "corruption": (data.CORRUPTED_OF, "no corrupted images")}
"""Suite -> datasets that it is for, and what the others lack."""


@dataclass
class Planner:
    """
    Attributes:
        configs, outputs: folders of configs and of runs.
        scale: a name in ``configs/scale``; empty for the paper's.
        extra: overrides for all rows; those of a row come after them.
        of_images: the same, for tables of images.
        seeds: instead of the rows' own.
    """

    configs: Path
    outputs: Path
    scale: str = ""
    extra: Sequence[str] = ()
    of_images: Sequence[str] = ()
    seeds: Sequence[int] = ()
    _composed: dict[Overrides, DictConfig] = field(default_factory=dict)
    _hashed: dict[tuple[Overrides, int], tuple[TrainConfig, str]] = field(default_factory=dict)
    _owners: dict[str, Overrides] = field(default_factory=dict)  # hash of a config -> the overrides that name its folder

    def overrides(self, table: Table) -> list[str]:
        """What all runs of a table have in common."""
        scale = [f"+scale={table.scale(self.scale)}"] if self.scale else []
        of_images = [] if table.scales else self.of_images  # what has scales of its own is not of images
        return [*map(as_in_sweeps, [*scale, *of_images, *self.extra])]

    def changes(self, table: Table) -> list[str]:
        """Those of them by which the runs compute something else than the paper's."""
        return [override for override in self.overrides(table) if variant([override]) != variant([])]

    def plan(self, tables: Sequence[Table]) -> list[Plan]:
        """The runs of tables, of which rows of one config share those of the row with the most seeds.

        Raises:
            UserError: a row can't be, or a file of a run is damaged.
        """
        rows = [(table, row) for table in tables for row in table.rows if not self._without(row)]
        rows.sort(key=lambda own: -len(self._seeds(*own)))
        for own in rows:
            self._own(self._base(*own) if own[1].begins_from else self._row(*own))
        for own in rows:
            self._own(self._row(*own))  # it is known by now where the runs are that others begin from
        return [self._plan(table) for table in tables]

    def _own(self, overrides: Overrides) -> None:
        """The first overrides of a config name its folder."""
        self._owners.setdefault(self._config(overrides)[1], overrides)

    def _owner(self, overrides: Overrides) -> Overrides:
        return self._owners.get(self._config(overrides)[1], overrides)

    def _plan(self, table: Table) -> Plan:
        planned = Plan()
        for row in table.rows:
            planned.seeds[row.name] = seeds = self._seeds(table, row)
            planned.rows[row.name] = []
            planned.folders[row.name] = self.outputs / row.experiment  # where nothing is
            if reason := self._without(row):
                planned.without[row.name] = reason
                continue
            overrides = self._row(table, row)
            before = self._jobs(self._base(table, row), seeds) if row.begins_from else []
            planned.rows[row.name] = jobs = self._jobs(overrides, seeds, begins_from_another=bool(before))
            planned.jobs.update(dict.fromkeys([*before, *jobs], "missing"))
            planned.folders[row.name] = jobs[0].directory.parent
            dataset = self._compose(overrides).dataset.name
            suites = {column.suite for column in table.columns.values()} & NEEDED_BY.keys()
            lacking = {suite: NEEDED_BY[suite][1] for suite in suites if dataset not in NEEDED_BY[suite][0]}
            planned.impossible[row.name] = {suite: f"dataset={dataset} has {what}" for suite, what in lacking.items()}
        return planned.now()

    def _without(self, row: Row) -> str:
        """Why a row has no runs; empty if it has."""
        if not row.experiment:
            return "nothing is trained"
        if self.scale and row.needs and self.scale not in row.met_at:
            return f"it is about {row.needs}, which +scale={self.scale} puts something else for"
        return ""

    def _seeds(self, table: Table, row: Row) -> list[int]:
        return sorted(set(self.seeds or seeds_of(table, row, self.scale)))

    def _base(self, table: Table, row: Row) -> Overrides:
        """Of the runs that a row's begin from."""
        return (f"+experiment={row.begins_from}", *self.overrides(table))

    def _row(self, table: Table, row: Row) -> Overrides:
        overrides = (f"+experiment={row.experiment}", *self.overrides(table), *map(as_in_sweeps, row.overrides))
        if row.begins_from:
            before = self._folder(self._base(table, row), self._seeds(table, row))
            weights = f"{self._shown(before)}/seed=${{seed}}"
            if OmegaConf.to_container(self._compose(overrides))["architecture"]["weights"] != weights:
                overrides += (f"architecture.weights={literal(weights)}",)
        return overrides

    def _jobs(self, overrides: Overrides, seeds: Sequence[int], begins_from_another: bool = False) -> list[Job]:
        """A run for each seed."""
        folder, owner, jobs = self._folder(overrides, seeds), self._owner(overrides), []
        for seed in seeds:
            config, expected = self._config(overrides, seed)
            jobs.append(Job(owner, seed, folder / f"seed={seed}", expected, config.epochs, begins_from_another))
        return jobs

    def _folder(self, overrides: Overrides, seeds: Sequence[int]) -> Path:
        """Where runs of a config are; those of another name if all of them are finished, and none is here."""
        owner = self._owner(overrides)
        own = self.outputs / owner[0].partition("=")[2] / variant(list(owner))
        if not any((own / f"seed={seed}").exists() for seed in seeds):
            folders = {self._finished.get(self._config(overrides, seed)[1]) for seed in seeds}
            if len(folders) == 1 and None not in folders:
                return folders.pop()
        return own

    @cached_property
    def _finished(self) -> dict[str, Path]:
        """Hash of a config -> the folder of a run that was finished with it."""
        found = {}
        for path in sorted(self.outputs.glob("*/*/seed=*/metrics.json")):
            try:
                found[json.loads(path.read_text(encoding="utf-8"))["config_hash"]] = path.parent.parent
            except (OSError, ValueError, KeyError, TypeError):  # damaged: of no use to another row
                continue
        return found

    def _compose(self, overrides: Overrides) -> DictConfig:
        """As Hydra composes it. That takes a quarter of a second, so what differs in values only is composed once."""
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
        """The config of a run, and its hash."""
        if (overrides, seed) not in self._hashed:
            copy = self._compose(overrides).copy()
            OmegaConf.update(copy, "seed", seed)
            config = as_train_config(copy)
            self._hashed[overrides, seed] = config, config_hash(config)
        return self._hashed[overrides, seed]

    def _shown(self, folder: Path) -> str:
        """A folder as the configs name it: from the folder above theirs, where training starts."""
        root = self.configs.resolve().parent
        return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
