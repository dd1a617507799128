"""The Vision Transformer against attention written as loops, and its blocks against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from blocks import block, normed
from torch import Tensor, nn

from late_phase import head, layernorm
from late_phase.architectures import build
from late_phase.architectures.transformer import Block
from late_phase.architectures.vit import ViT, positions

SIZES = {"patch": 4, "depth": 2, "heads": 2, "width": 16}


def scattered() -> ViT:
    """A model whose weights are large enough to matter, in double precision."""
    torch.manual_seed(0)
    model = ViT(3, 5, **SIZES).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def code(width: int, row: int, column: int) -> list[float]:
    """The position of a patch, a number at a time."""
    quarter = width // 4
    angles = [[number / 10_000 ** (i / (quarter - 1)) for i in range(quarter)] for number in (column, row)]
    return [function(angle) for own in angles for function in (math.sin, math.cos) for angle in own]


def by_hand(model: ViT, image: Tensor) -> Tensor:
    """Logits of one image."""
    w, patches = model.state_dict(), []
    for row in range(image.shape[1] // 4):
        for column in range(image.shape[2] // 4):
            pixels = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            vector = w["patches.weight"].flatten(1) @ pixels + w["patches.bias"]
            patches.append(vector + torch.tensor(code(16, row, column), dtype=torch.float64))
    x = torch.stack(patches)
    for i in range(2):
        x = block(x, w, f"blocks.{i}", 2, causal=False)
    return normed(x, w, "norm").mean(0) @ w["head.weight"].T + w["head.bias"]


def test_it_is_attention_in_loops():
    model, images = scattered(), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        logits = model(images)
        for own, image in zip(logits, images, strict=True):
            torch.testing.assert_close(own, by_hand(model, image), rtol=1e-6, atol=1e-6)  # positions are in single precision


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_the_one_of_torch(causal):
    torch.manual_seed(0)
    ours = Block(12, 3, causal).double()
    theirs = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True).double()
    names = {
        "attention.qkv.": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj",
        "expand": "linear1",
        "shrink": "linear2",
    }

    def renamed(name: str) -> str:
        for own, other in names.items():
            name = name.replace(own, other)
        return name

    theirs.load_state_dict({renamed(name): value for name, value in ours.state_dict().items()})
    for one, other in zip((ours, theirs), (theirs, ours), strict=True):
        assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in other.parameters())
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    torch.testing.assert_close(ours(x), theirs(x, mask), rtol=1e-10, atol=1e-10)


def test_positions_differ_and_are_those_of_each_place():
    codes = positions(16, 3, 4, torch.device("cpu"))
    assert codes.shape == (16, 3, 4)
    for row in range(3):
        for column in range(4):
            torch.testing.assert_close(codes[:, row, column], torch.tensor(code(16, row, column)), rtol=1e-5, atol=1e-6)
    assert len({tuple(own.tolist()) for own in codes.flatten(1).T}) == 12


def test_it_has_as_many_parameters_as_its_layers_add_up_to():
    width = 128
    blocks = 6 * (2 * 2 * width + (width + 1) * 3 * width + (width + 1) * width + (width + 1) * 4 * width + (4 * width + 1) * width)
    model = build("vit", 3, 10)
    assert sum(p.numel() for p in model.parameters()) == (48 + 1) * width + blocks + 2 * width + (width + 1) * 10
    assert head().names(model) == ["head.weight", "head.bias"]
    assert len(layernorm().names(model)) == 2 * (2 * 6 + 1)


def test_it_starts_as_said():
    torch.manual_seed(0)
    model = build("vit", 3, 10, depth=8, width=64)
    for name, parameter in model.named_parameters():
        if name.startswith("patches"):
            assert parameter.abs().max().item() == pytest.approx(1 / math.sqrt(48), rel=0.1)
        elif parameter.dim() == 2:
            std = 0.02 / 4 if name.endswith(("attention.out.weight", "shrink.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=5 / (2 * parameter.numel()) ** 0.5), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm" in name and name.endswith("weight")))), name


def test_it_compiles_into_one_graph_and_trains_in_mixed_precision():
    model, images = scattered().float(), torch.randn(2, 3, 8, 8)
    torch.compile(model, fullgraph=True, backend="eager")(images).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("key", SIZES)
def test_sizes_below_1(key):
    with pytest.raises(ValueError, match=rf"^architecture\.{key}=0 is out of range: choose at least 1\.$"):
        build("vit", 3, 5, **(SIZES | {key: 0}))


def test_sizes_that_do_not_go_together():
    with pytest.raises(
        ValueError, match=r"^architecture\.width=16 is not a multiple of architecture\.heads=3: choose one that is\.$"
    ):
        build("vit", 3, 5, **(SIZES | {"heads": 3}))
    with pytest.raises(
        ValueError, match=r"^architecture\.width=6 is not a multiple of 4, which positions need: choose one that is\.$"
    ):
        build("vit", 3, 5, **(SIZES | {"width": 6}))
    with pytest.raises(ValueError, match=r"^architecture\.patch=4 doesn't divide images of 10 x 8 pixels: choose one that does\.$"):
        scattered()(torch.zeros(1, 3, 8, 10, dtype=torch.float64))
