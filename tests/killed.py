"""A run that kills itself with SIGKILL at a given place: ``python killed.py DIRECTORY PLACE OVERRIDES...``, for test_run.py."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir

from late_phase import LatePhase
from late_phase.command_line.hydra_jobs import as_dataclass
from late_phase.config.check import check
from late_phase.runs import directory as run_directory
from late_phase.training.loop import run


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str) -> None:
    """``step:N``: after the Nth step; ``saving:N``: with half of the Nth checkpoint written; ``renaming:N``: after the one before
    was moved away; ``evaluating``: with the predictions written."""
    name, _, number = place.partition(":")
    left = int(number or 1)

    def armed(owner: object, attribute: str, before_killing=lambda *arguments: None, after: bool = True) -> None:
        original = getattr(owner, attribute)

        def counting(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0 and not after:
                before_killing(*arguments)
                kill()
            result = original(*arguments, **options)
            if left == 0:
                kill()
            return result

        setattr(owner, attribute, counting)

    if name == "step":
        armed(LatePhase, "step")
    elif name == "saving":
        original_save = torch.save

        def half(state: object, path: Path) -> None:
            original_save(state, path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

        armed(run_directory.torch, "save", half, after=False)
    elif name == "renaming":
        left *= 2  # each checkpoint moves two files
        armed(Path, "replace", after=False)
    elif name == "evaluating":
        from late_phase.tasks import images

        armed(images, "write_predictions")
    else:
        raise ValueError(place)


if __name__ == "__main__":
    directory, place, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = check(as_dataclass(compose("train", overrides)))
    arm(place)
    run(config, Path(directory))
    sys.exit("the place was never reached")
