"""Loads weights to start from: torchvision's by name, or those in a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from late_phase.architectures import imagenet
from late_phase.architectures.state_dicts import find_weights, unfinished
from late_phase.support.errors import UserError, first_line

HARMLESS = [argparse.Namespace, np.dtype, np.dtypes.Float64DType, np._core.multiarray.scalar]
"""Classes that files may contain besides torch's own, as training arguments and results that are stored with the weights."""


def load(model: nn.Module, name: str, weights: str, whole: bool = False) -> None:
    """Copies ``weights``, running statistics included, into ``model``, which is the architecture ``name``.

    Args:
        weights: a name of torchvision's weights, a .safetensors file, a file that ``torch.save`` wrote, or the directory of a
            finished run. A file of ``torch.save`` may have its state dict within other dicts. All names may have a prefix, such as
            those of wrappers and Lightning modules.
        whole: whether the last layer must fit as well. If not, and its number of classes differs, the model keeps its own last
            layer, and a line on stderr says so.

    Raises:
        UserError: there are no weights, there are several, they are from unfinished training, or they don't fit.
    """
    own = model.state_dict()
    entries = get_model_weights(name).__members__ if name in imagenet.NAMES else {}
    state = _fetch(name, entries[weights]) if weights in entries else _read(name, weights, entries, list(own))
    if name in imagenet.NAMES:
        state = {imagenet.current_key(key): value for key, value in state.items()}

    last = next(prefix for prefix, module in reversed(list(model.named_modules())) if isinstance(module, nn.Linear))
    classifier = [f"{last}.weight", f"{last}.bias"]
    other_classes = all(
        key in state and state[key].shape[1:] == own[key].shape[1:] and len(state[key]) != len(own[key]) for key in classifier
    )
    if other_classes and not whole:
        there, wanted = len(state[classifier[0]]), len(own[classifier[0]])
        print(f"architecture.weights={weights}: {last} is for {there} classes, and starts anew for {wanted}.", file=sys.stderr)
        state |= {key: own[key] for key in classifier}
    wrong = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
    fitting = {key: value for key, value in state.items() if key not in wrong}
    missing, unknown = model.load_state_dict(fitting, strict=False)  # accepts old files, which lack BatchNorm's minibatch counts
    misfits = [
        _some([key for key in missing if key not in wrong], "missing"),
        _some(unknown, "unknown"),
        _some([f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}" for key in wrong], "of another shape"),
    ]
    if any(misfits):
        single = Path(weights).expanduser().with_name("model.safetensors")  # a run's plain model, beside its other weight files
        raise UserError(
            f"architecture.weights={weights} doesn't fit architecture={name} as it is set ({'; '.join(filter(None, misfits))}): "
            f"choose {f'{single}, or ' if single.exists() else ''}weights of the same architecture with the same options."
        )


def _some(keys: list[str], what: str) -> str:
    more = ", ..." if len(keys) > 2 else ""
    return f"{len(keys)} {what}: {', '.join(keys[:2])}{more}" if keys else ""


def _fetch(name: str, entry: WeightsEnum) -> dict[str, Tensor]:
    """Returns torchvision's weights from torch's cache or the network. torch only renames a download when it is complete."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        return entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # the errors of downloading and reading have no common class
        if file.exists():
            raise _unreadable(entry.name, error, f"remove {file}, and it is downloaded again.") from error
        raise UserError(
            f"architecture.weights={entry.name} of {name} could not be downloaded ({first_line(error)}): "
            f"put {file.name} from {entry.url} into {file.parent}, or set architecture.weights=FILE."
        ) from error


def _read(name: str, weights: str, entries: Collection[str], own: Sequence[str]) -> dict[str, Tensor]:
    """Reads the weights in a file or a run's directory.

    Args:
        entries: names of torchvision's weights for the architecture, for the message if there is no such file.
        own: names of the architecture's tensors.
    """
    cure = "choose a .safetensors file, or one that torch.save(model.state_dict(), FILE) wrote."
    path, of_run = Path(weights).expanduser(), False
    try:
        if of_run := path.is_dir():
            path /= "model.safetensors"
        with torch.serialization.safe_globals(HARMLESS):
            content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        if of_run:
            absent = "no finished run, as it has no model.safetensors"
        else:
            absent = f"neither a file nor one of torchvision's ({', '.join(entries)})" if entries else "no file"
        raise UserError(
            f"architecture.weights={weights} of architecture={name} is {absent}: "
            "choose a file of weights, or the directory of a finished run."
        ) from error
    except Exception as error:  # the errors of reading have no common class
        raise _unreadable(weights, error, cure) from error
    if why := unfinished(content):
        raise UserError(
            f"architecture.weights={weights} is {why}: choose the model.safetensors of the finished run, or the averaged model's "
            "state_dict()."
        )
    found = find_weights(content, own)
    if not found:
        raise UserError(f"architecture.weights={weights} holds no weights: {cure}")
    if len(found) > 1:
        places = " and ".join(repr(f"{some.place}.{some.prefix}".strip(".")) for some in found[:3])
        raise UserError(f"architecture.weights={weights} holds several sets of weights of {name} ({places}): save one of them.")
    if found[0].matches and (told := found[0].told()):
        print(f"architecture.weights={weights}: weights taken {told}.", file=sys.stderr)
    return found[0].state


def _unreadable(weights: str, error: Exception, cure: str) -> UserError:
    # The error's class only, because torch's explanations fill a page.
    return UserError(f"architecture.weights={weights} can't be read as weights ({type(error).__name__}): {cure}")
