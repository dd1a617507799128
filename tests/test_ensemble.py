"""The members' joint prediction against their distributions one by one."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from models import assert_same, sgd, spawned
from torch import Tensor, nn

from late_phase import LatePhase, batchnorm, head


def test_the_ensemble_is_the_mean_of_the_members_distributions():
    model, late = spawned()
    x = torch.randn(6, 3, 8, 8)
    model.train()
    model[5].eval()
    probabilities = []
    for k in range(3):
        with late.member(k):
            probabilities.append(copy.deepcopy(model).eval()(x).softmax(-1))
    torch.testing.assert_close(late.ensemble(x).exp(), sum(probabilities) / 3)
    assert model[1].training and not model[5].training


class Keywords(nn.Module):
    """A model as Hugging Face's are: it takes keywords and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = models.plain()

    def forward(self, *, pixels: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.inner(pixels), "hidden": pixels}


def test_models_with_keywords_and_dicts_are_run_by_forward():
    torch.manual_seed(0)
    model = Keywords()
    twin = copy.deepcopy(model.inner)
    batches = [{"pixels": x, "mask": None} for x, _ in models.minibatches(3)]

    def forward(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(**batch)["logits"]

    late = LatePhase(model, sgd(model), batchnorm() + head(), 3, 0.3)
    plain = LatePhase(twin, sgd(twin), batchnorm() + head(), 3, 0.3)
    late.spawn(torch.Generator().manual_seed(0))
    plain.spawn(torch.Generator().manual_seed(0))
    assert torch.equal(late.ensemble(batches[0], forward=forward), plain.ensemble(batches[0]["pixels"]))
    single = late.average("recompute", batches, forward)
    assert_same(single.inner, plain.average("recompute", [batch["pixels"] for batch in batches]))
    with pytest.raises(TypeError, match=r"takes logits \[examples, classes\], and the output is of type dict: pass forward="):
        late.ensemble(batches[0], forward=lambda model, batch: model(**batch))
    with pytest.raises(ValueError, match="only 'recompute' takes batches"):
        late.average(forward=forward)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 8, 8)])
def test_an_ensemble_is_of_logits(shape):
    """Not of the log odds of one class, nor of what has its classes in another dimension."""
    late = spawned()[1]
    x = models.minibatches(1)[0][0]
    with pytest.raises(TypeError, match=rf"the output is a tensor \[{', '.join(map(str, shape))}\]: pass forward="):
        late.ensemble(x, forward=lambda model, x: torch.zeros(shape))
    assert late.ensemble(x, forward=lambda model, x: torch.zeros(4, 6, 5)).shape == (4, 6, 5)  # of a sequence
