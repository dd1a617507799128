"""Flatness of the loss around a model's weights (Figure 3): δL(σ_z) = E_z[L(w + z) − L(w)], z_i ~ N(0, w_i² σ_z²).

L is the mean NLL over given images with the model in eval mode. All parameters are weights w, including biases and BatchNorm's γ
and β. Running statistics are buffers and don't change. A weight of 0 stays 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from late_phase.evaluation.metrics import label_log_probs
from late_phase.support.seeding import generator
from late_phase.weights import load

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Starts a pass over the images, the same each time: the model's inputs ``[examples, ...]`` and labels ``[examples]``."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Flatness:
    """δL on a grid of σ_z, in nats per example: mean over draws, and half the width of its 95 % confidence interval.

    The interval uses Student's t and the standard error over draws. All σ_z share the draws, so the curve is smoother than the
    intervals suggest.
    """

    sigmas: tuple[float, ...]
    draws: int
    mean: tuple[float, ...]
    confidence: tuple[float, ...]

    @classmethod
    def of(cls, sigmas: Sequence[float], changes: Iterable[Tensor]) -> Flatness:
        """Builds the curve from each draw's changes of the loss ``[sigmas]``.

        Raises:
            ValueError: there are fewer than two draws.
        """
        # SciPy is slow to import, and importing this module should be fast.
        from scipy.stats import t

        changes = list(changes)
        draws = len(changes)
        if draws < 2:
            raise ValueError(f"draws={draws} gives no standard error: choose at least 2.")
        variance, mean = torch.var_mean(torch.stack(changes), 0)
        confidence = t.ppf(0.975, draws - 1) * (variance / draws).sqrt()
        return cls(tuple(sigmas), draws, tuple(mean.tolist()), tuple(confidence.tolist()))


def loss_changes(
    model: nn.Module, batches: Batches, sigmas: Sequence[float], draws: int, seed: int = 0, memory: int = 2**26
) -> Iterator[Tensor]:
    """Yields L(w + z) − L(w) of each draw: ``[sigmas]`` in double precision, on the CPU.

    z = w σ_z ε, where ε depends on ``seed`` and on the draw's number and is the same for all σ_z. A copy of the model is perturbed:
    the model's own weights, buffers and modes don't change.

    Args:
        model: ``inputs`` -> logits ``[examples, classes]``.
        batches: one pass for L(w), then one for each σ_z and each chunk of draws.
        memory: bytes that perturbed weights and activations may take, roughly. Draws are evaluated together in chunks that fit, if
            ``torch.func.vmap`` supports the model, or else one by one. The results differ only by rounding. On a CPU, chunks
            speed up linear layers, and large chunks slow down convolutions.

    Raises:
        ValueError: there are no images, or a σ_z is negative or not finite.
    """
    if not sigmas or not all(0 <= sigma < math.inf for sigma in sigmas):
        raise ValueError(f"sigmas={list(sigmas)} is not a grid of σ_z: choose finite numbers of at least 0.")
    # Without gradients there is no graph, and autocast doesn't cache its casts of the parameters, whose values change.
    model = copy.deepcopy(model).eval().requires_grad_(False)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def one(inputs: Tensor) -> Tensor:
        return model(inputs)[None]

    with _output_sizes(model) as outputs:
        base = _losses(one, batches)
    # Weights: noise, perturbed weights and an intermediate product. Outputs: a layer's input and output, and a residual branch's.
    needed = 3 * sum(value.nbytes for value in weights.values()) + 4 * max(outputs)
    size = max(1, min(draws, memory // needed))
    together = vmap(lambda values, inputs: functional_call(model, values, (inputs,)), in_dims=(0, None))
    possible = size > 1

    def losses(perturbed: Weights) -> Tensor:
        nonlocal possible
        if possible:
            try:
                return _losses(lambda inputs: together(perturbed, inputs), batches)
            except RuntimeError:  # vmap doesn't support the model, or memory has run out
                possible = False
        found = []
        for values in zip(*perturbed.values(), strict=True):
            load(model, dict(zip(perturbed, values, strict=True)))
            found.append(_losses(one, batches))
        return torch.cat(found)

    for start in range(0, draws, size):
        noises = [_noise(weights, seed, draw) for draw in range(start, min(start + size, draws))]
        noise = {name: torch.stack([own[name] for own in noises]) for name in weights}
        del noises
        found = [losses({name: value + sigma * value * noise[name] for name, value in weights.items()}) for sigma in sigmas]
        yield from (torch.stack(found) - base).T


def _noise(weights: Weights, seed: int, draw: int) -> Weights:
    """Returns ε of this draw, the same on any device."""
    random = generator(seed, "flatness", draw)
    return {name: torch.randn(value.shape, generator=random).to(value) for name, value in weights.items()}


def _losses(logits: Callable[[Tensor], Tensor], batches: Batches) -> Tensor:
    """Returns the mean NLL over all examples ``[models]``, in double precision, on the CPU.

    Args:
        logits: inputs -> ``[models, examples, classes]``.
    """
    total, seen = torch.zeros((), dtype=torch.float64), 0
    for inputs, labels in batches():
        found = logits(inputs)
        log_probs = found.to(torch.promote_types(found.dtype, torch.float32)).log_softmax(-1)
        total = total - label_log_probs(log_probs, labels).cpu().double().sum(-1)
        seen += len(labels)
    if not seen:
        raise ValueError("there are no images to measure the loss on: pass batches with at least one.")
    return total / seen


@contextmanager
def _output_sizes(model: nn.Module) -> Iterator[list[int]]:
    """Collects the sizes in bytes of the modules' outputs within the block."""
    sizes: list[int] = []

    def measure(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    hooks = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()
