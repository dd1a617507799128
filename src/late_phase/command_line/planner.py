"""Plans tables one after the other: what a run's config is, where it belongs, and which rows share it."""

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
from late_phase.support.errors import UserError

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
    _planned: dict[str, Job] = field(default_factory=dict)

    def overrides(self, table: Table) -> list[str]:
        """What all runs of a table have in common."""
        own = table.scales.get(self.scale)  # of another kind of data
        scale = [f"+scale={own or self.scale}"] if self.scale else []
        return [*map(as_in_sweeps, [*scale, *([] if own else self.of_images), *self.extra])]

    def changes(self, table: Table) -> list[str]:
        """Those of them by which the runs compute something else than the paper's."""
        return [override for override in self.overrides(table) if variant([override]) != variant([])]

    def plan(self, table: Table) -> Plan:
        """The runs of a table.

        Raises:
            UserError: a file of a run is damaged.
        """
        planned = Plan()
        for row in table.rows:
            planned.seeds[row.name] = list(self.seeds or seeds_of(table, row, self.scale))
            planned.rows[row.name] = []
            planned.folders[row.name] = self.outputs / row.experiment  # where nothing is
            try:
                self._add(planned, table, row)
            except UserError as error:
                planned.without[row.name] = str(error)
        planned.jobs.update({job: job.state() for job in planned.jobs})
        return planned

    def _add(self, planned: Plan, table: Table, row: Row) -> None:
        if not row.experiment:
            raise UserError("nothing is trained")
        if self.scale and row.needs and self.scale not in row.met_at:
            raise UserError(f"it is about {row.needs}, which +scale={self.scale} puts something else for")
        seeds, common = planned.seeds[row.name], self.overrides(table)
        overrides: Overrides = (f"+experiment={row.experiment}", *common, *map(as_in_sweeps, row.overrides))
        if row.begins_from:
            before = self._jobs((f"+experiment={row.begins_from}", *common), row.begins_from, seeds)
            planned.jobs.update(dict.fromkeys(before, "missing"))
            weights = f"{self._shown(before[0].directory.parent)}/seed=${{seed}}"
            if OmegaConf.to_container(self._compose(overrides))["architecture"]["weights"] != weights:
                overrides += (f"architecture.weights={literal(weights)}",)
        jobs = self._jobs(overrides, row.experiment, seeds)
        dataset = self._compose(overrides).dataset.name
        suites = {column.suite for column in table.columns.values()} & NEEDED_BY.keys()
        lacking = {suite: NEEDED_BY[suite][1] for suite in suites if dataset not in NEEDED_BY[suite][0]}
        planned.impossible[row.name] = {suite: f"dataset={dataset} has {what}" for suite, what in lacking.items()}
        planned.folders[row.name] = jobs[0].directory.parent
        planned.rows[row.name] = jobs
        planned.jobs.update(dict.fromkeys(jobs, "missing"))

    def _jobs(self, overrides: Overrides, experiment: str, seeds: Sequence[int]) -> list[Job]:
        """A run for each seed; those of another row, or of a table before, if all of them have the same config in one folder."""
        hashes = {seed: config_hash(self._config(overrides, seed)) for seed in seeds}
        own = self.outputs / experiment / variant(list(overrides))
        if not any((own / f"seed={seed}").exists() for seed in seeds):
            shared = [self._planned.get(expected) for expected in hashes.values()]
            if all(shared) and len({job.directory.parent for job in shared}) == 1:
                return shared
            folders = {self._finished.get(expected) for expected in hashes.values()}
            if len(folders) == 1 and None not in folders:
                own = folders.pop()
        epochs = self._config(overrides, seeds[0]).epochs
        jobs = [Job(overrides, seed, own / f"seed={seed}", expected, epochs) for seed, expected in hashes.items()]
        self._planned |= {job.expected: job for job in jobs}
        return jobs

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

    def _config(self, overrides: Overrides, seed: int) -> TrainConfig:
        copy = self._compose(overrides).copy()
        OmegaConf.update(copy, "seed", seed)
        return as_train_config(copy)

    def _shown(self, folder: Path) -> str:
        """A folder as the configs name it: from the folder above theirs, where training starts."""
        root = self.configs.resolve().parent
        return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
