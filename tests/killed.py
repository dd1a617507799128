"""Runs that kill themselves with SIGKILL, each at a given place: ``python killed.py DIRECTORY PLACE,... OVERRIDES...``.

``{place}`` in ``DIRECTORY`` stands for the place, with ``-`` instead of ``:``. The runs are forks of one process, which imports all
that they need. If all are killed, it kills itself, too.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo
from conftest import ROOT
from hydra import compose, initialize_config_dir

from late_phase import LatePhase, data
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
    directory, places, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = check(as_dataclass(compose("train", overrides)))
    data.load("digits")
    for place in places.split(","):
        if not (child := os.fork()):
            arm(place)
            run(config, Path(directory.format(place=place.replace(":", "-"))))
            os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            sys.exit(f"{place} was never reached")
    kill()
