"""A folder with a run's model and its model card, as the Hugging Face Hub takes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from late_phase.config.training import TrainConfig
from late_phase.data.images import Normalization
from late_phase.export.load import finished_run, load
from late_phase.methods.exported import WeightFiles
from late_phase.reporting.runs import COLUMNS, markdown
from late_phase.runs.config_file import from_yaml, to_yaml
from late_phase.runs.directory import RunDirectory
from late_phase.support.errors import UserError, first_line
from late_phase.support.files import atomic, make_folder, write_text

PROGRAM = "model.pt2"


def export(run: Path, to: Path, program: int | None = None) -> list[Path]:
    """Writes ``model.safetensors``, ``config.yaml``, ``metrics.json`` and the model card ``README.md``. Returns their paths.

    :func:`late_phase.load` reads the folder.

    Args:
        run: see :func:`late_phase.load`.
        program: pixels of an image's side; with it ``model.pt2`` is written as well, the model as ``torch.export`` saves it, for
            any number of normalized images of this size.

    Raises:
        UserError: the run has no single model, ``to`` is a run or can't be written, or the model can't be exported as a program.
    """
    files = RunDirectory(finished_run(run.expanduser()))
    if RunDirectory(to).history.exists():
        raise UserError(f"--to {to} is a run: choose another folder.")
    config, record, model = from_yaml(files.config), files.read_metrics(), load(files.path)
    exported = None if program is None else _program(model, program)
    make_folder("--to", to)
    for former in (to / "metrics.json", to / PROGRAM):  # the first says that the folder is complete
        former.unlink(missing_ok=True)
    written = [to / "model.safetensors", to / "config.yaml", to / "README.md", to / "metrics.json"]
    with atomic(written[0]) as partial:
        shutil.copyfile(WeightFiles(files.path).model, partial)
    if exported is not None:
        written.insert(1, to / PROGRAM)
        with atomic(written[1]) as partial, partial.open("wb") as file:
            torch.export.save(exported, file)
    write_text(to / "config.yaml", to_yaml(config))
    write_text(to / "README.md", card(config, record, model, program))
    write_text(to / "metrics.json", files.metrics.read_text(encoding="utf-8"))
    return written


def _program(model: nn.Module, size: int) -> torch.export.ExportedProgram:
    """Returns the model as a program for any number of images with sides of ``size`` pixels."""
    if not isinstance(model.encoding, Normalization):
        raise UserError(f"--program {size} is for models of images: leave it out.")
    images = torch.zeros(2, len(model.encoding.mean), size, size)
    try:
        return torch.export.export(model, (images,), dynamic_shapes=[{0: torch.export.Dim.DYNAMIC}])
    except Exception as error:  # torch.export raises errors of many kinds
        raise UserError(f"--program {size} failed ({first_line(error)}): choose another size, or leave it out.") from error


def card(config: TrainConfig, record: dict[str, Any], model: nn.Module, program: int | None) -> str:
    """Returns the model card: Markdown, with the Hub's metadata before it.

    Args:
        record: the run's ``metrics.json``.
        program: see :func:`export`.
    """
    late = config.late_phase
    settings = [["setting", "value"], ["dataset", config.dataset.name], ["architecture", config.architecture.name]]
    settings += [["epochs", str(config.epochs)], ["optimizer", f"{config.optimizer.name}, learning rate {config.optimizer.lr}"]]
    settings += [["late-phase weights", late.name]]
    if late.reached(config.epochs) is not None:
        settings += [["K, T0, σ0, γ_θ", f"{late.K}, {late.T0}, {late.sigma0}, {late.gamma_theta}"]]
    metrics = record["metrics"]["single"]
    rows = [["metric", "value"]]
    rows += [[title, f"{metrics[key] * factor:.{digits}f}"] for title, (key, factor, digits) in COLUMNS.items() if key in metrics]
    number = sum(parameter.numel() for parameter in model.parameters())
    files = [["file", "what is in it"], ["`model.safetensors`", "the weights, with a plain model's names"]]
    if program is not None:
        files += [
            [f"`{PROGRAM}`", f"the model for `torch.export.load`: normalized images of {program} x {program} pixels -> logits"]
        ]
    files += [["`config.yaml`", "all settings of the run"], ["`metrics.json`", "all numbers, and where they come from"]]
    lines = [
        "---",
        "license: mit",
        "library_name: late-phase",
        "tags: [late-phase-weights, pytorch]",
        "---",
        "",
        f"# {record['experiment']}, seed {record['seed']}",
        "",
        f"{type(model).__name__} with {number:,} parameters: the single model of a run of late-phase, which reproduces "
        "*Neural Networks with Late-Phase Weights* (von Oswald et al., ICLR 2021).",
        "",
        "```python",
        "import late_phase",
        "",
        'model = late_phase.load("FOLDER")  # FOLDER: where this page is',
        "logits = model(model.encoding(inputs))  # images: uint8 pixels [examples, channels, height, width]",
        "```",
        "",
        markdown(rows),
        "",
        markdown(settings),
        "",
        markdown(files),
        "",
        f"The run took {record['seconds']:.0f} seconds on {record['device']}, with commit {record['git_commit']}.",
    ]
    return "\n".join(lines) + "\n"
