"""The directory of one run: names, writes and reads its files, which are whole or absent.

docs/experiments.md lists the files. ``late_phase.methods`` writes the files with weights. ``metrics.json`` is written last: a run
that has it is finished.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch

from late_phase.config.identity import differences, identity
from late_phase.config.training import TrainConfig
from late_phase.runs.config_file import from_yaml, to_yaml
from late_phase.runs.errors import ERROR
from late_phase.support.errors import Busy, UserError, first_line
from late_phase.support.files import atomic, write_text


class RunDirectory:
    """The paths, checkpoints, history and metrics of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.history = path / "history.csv"
        self.checkpoint = path / "checkpoint.pt"
        self.previous_checkpoint = path / "checkpoint.previous.pt"
        self.sample = path / "sample.txt"
        self.metrics = path / "metrics.json"
        self.error = path / ERROR
        self.predictions = path / "predictions"
        self._damaged: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the directory during the block.

        Raises:
            Busy: another process holds the directory.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / ".lock"
        try:
            with filelock.FileLock(lock, timeout=0):
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
        except filelock.Timeout:
            raise Busy(f"{self.path} is in use by another process: wait for it or choose another seed.") from None

    def refuse_other_config(self, config: TrainConfig) -> None:
        """Refuses a config whose identity differs from that of the config in the directory.

        A run that isn't finished may go on in another precision, which its record then says.

        Raises:
            UserError: the directory has such a config.
        """
        if self.config.exists():
            changes = differences(identity(from_yaml(self.config)), identity(config))
            if not self.metrics.exists():
                changes = [change for change in changes if not change.startswith("compute.")]
            if changes:
                raise UserError(
                    f"{self.path} holds a run with another config ({'; '.join(changes)}): move it away, or undo the change."
                )

    def write_config(self, config: TrainConfig) -> None:
        write_text(self.config, to_yaml(config))

    def read_metrics(self) -> dict[str, Any] | None:
        """Returns the metrics of a finished run; None if the run isn't finished.

        Raises:
            UserError: the file is damaged.
        """
        if not self.metrics.exists():
            return None
        try:
            record = json.loads(self.metrics.read_text(encoding="utf-8"))
            return record if record["metrics"] else None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.metrics} is damaged: remove it and start the run again.") from error

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        columns = dict.fromkeys(key for row in rows for key in row)  # a checkpoint by older code may have fewer
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history, text.getvalue())

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes a checkpoint, and keeps the previous one beside it unless that is damaged."""
        with atomic(self.checkpoint) as partial:
            torch.save(state, partial)
            if self.checkpoint.exists() and self.checkpoint not in self._damaged:
                self.checkpoint.replace(self.previous_checkpoint)
        self._damaged.discard(self.checkpoint)

    def last_checkpoint(self) -> Path | None:
        """Returns the path of the latest checkpoint; None if there is none."""
        return next((path for path in (self.checkpoint, self.previous_checkpoint) if path.exists()), None)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Loads the latest good checkpoint; None if there is none.

        A damaged checkpoint is skipped with a warning. torch notices only truncated files; checksums find any other damage.
        """
        for path in (self.checkpoint, self.previous_checkpoint):
            if not path.exists():
                continue
            try:
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()
                if damaged is None:
                    return torch.load(path, map_location="cpu", weights_only=True)
                reason = f"bad checksum of {damaged}"
            except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
                reason = first_line(error)
            self._damaged.add(path)
            warnings.warn(f"{path} is damaged and skipped ({reason}).", stacklevel=2)
        return None
