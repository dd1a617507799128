"""Weights to start from: torchvision's by name, or those in a file."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from late_phase.architectures import imagenet
from late_phase.errors import UserError, first_line


def load(model: nn.Module, name: str, weights: str) -> None:
    """Copies ``weights`` into the architecture ``name``, running statistics included.

    The last layer, if it is for another number of classes, is left as it is.

    Args:
        weights: the name of torchvision's weights; a .safetensors file; another file, with a state dict that ``torch.save`` wrote,
            as such or as ``state_dict`` or ``model`` in a dict; or the directory of a finished run.

    Raises:
        UserError: they are not to be had, or don't fit.
    """
    entries = get_model_weights(name).__members__ if name in imagenet.NAMES else {}
    state = _fetch(name, entries[weights]) if weights in entries else _read(name, weights, entries)
    if name in imagenet.NAMES:
        state = {imagenet.current_key(key): value for key, value in state.items()}

    own = model.state_dict()
    last = next(prefix for prefix, module in reversed(list(model.named_modules())) if isinstance(module, nn.Linear))
    head = [f"{last}.weight", f"{last}.bias"]
    if all(key in state and state[key].shape[1:] == own[key].shape[1:] for key in head):
        state |= {key: own[key] for key in head if state[key].shape != own[key].shape}
    wrong = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
    fitting = {key: value for key, value in state.items() if key not in wrong}
    missing, unknown = model.load_state_dict(fitting, strict=False)  # knows that old files don't count BatchNorm's minibatches
    misfits = [
        _some([key for key in missing if key not in wrong], "missing"),
        _some(unknown, "unknown"),
        _some([f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}" for key in wrong], "of another shape"),
    ]
    if any(misfits):
        raise UserError(
            f"architecture.weights={weights} doesn't fit architecture={name} as it is set ({'; '.join(filter(None, misfits))}): "
            "choose weights of the same architecture with the same options."
        )


def _some(keys: list[str], what: str) -> str:
    more = ", ..." if len(keys) > 2 else ""
    return f"{len(keys)} {what}: {', '.join(keys[:2])}{more}" if keys else ""


def _fetch(name: str, entry: WeightsEnum) -> dict[str, Tensor]:
    """torchvision's weights, from torch's cache or the network. torch renames a download only when it is whole."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        return entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # what downloading and reading raise has no class in common
        if file.exists():
            raise _unreadable(entry.name, error, f"remove {file}, and it is downloaded again.") from error
        raise UserError(
            f"architecture.weights={entry.name} of {name} could not be downloaded ({first_line(error)}): "
            f"put {file.name} from {entry.url} into {file.parent}, or set architecture.weights=FILE."
        ) from error


def _read(name: str, weights: str, names: Collection[str]) -> dict[str, Tensor]:
    """What is in a file, ``names`` being those that would have done as well."""
    cure = "choose a .safetensors file, or one that torch.save(model.state_dict(), FILE) wrote."
    path, of_run = Path(weights).expanduser(), False
    try:
        if of_run := path.is_dir():
            path /= "model.safetensors"
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        if of_run:
            absent = "no finished run, as it has no model.safetensors"
        else:
            absent = f"neither a file nor one of torchvision's ({', '.join(names)})" if names else "no file"
        raise UserError(
            f"architecture.weights={weights} of architecture={name} is {absent}: "
            "choose a file of weights, or the directory of a finished run."
        ) from error
    except Exception as error:  # what reading raises has no class in common
        raise _unreadable(weights, error, cure) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not (
        isinstance(state, dict)
        and state
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
    ):
        raise UserError(f"architecture.weights={weights} holds no weights: {cure}")
    return state


def _unreadable(weights: str, error: Exception, cure: str) -> UserError:
    # By its class only: torch's explanations fill a page.
    return UserError(f"architecture.weights={weights} can't be read as weights ({type(error).__name__}): {cure}")
