"""The GPT against attention written as loops, and against the GPT-2 of transformers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from blocks import block, normed
from torch import Tensor, nn

from late_phase import LatePhase, head, layernorm
from late_phase.architectures import build
from late_phase.architectures.gpt import GPT
from late_phase.layers.fold import fold
from late_phase.layers.rank1 import parametrize_rank1, rank1

SIZES = {"depth": 2, "heads": 3, "width": 12, "context": 8}


def scattered(bias: bool = True, **sizes: int) -> GPT:
    """A model whose weights are large enough to matter, in double precision."""
    torch.manual_seed(0)
    model = GPT(11, bias=bias, **(SIZES | sizes)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def by_hand(model: GPT, symbols: Tensor) -> Tensor:
    """Logits ``[positions, symbols]`` of one window ``[positions]``."""
    w = model.state_dict()
    x = torch.stack([w["embedding.weight"][symbol] + w["positions.weight"][i] for i, symbol in enumerate(symbols)])
    for i in range(len(model.blocks)):
        x = block(x, w, f"blocks.{i}", SIZES["heads"], causal=True)
    return normed(x, w, "norm") @ w["embedding.weight"].T


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 5, 8])
def test_it_is_attention_in_loops(length, bias):
    model = scattered(bias)
    symbols = torch.randint(11, (length, 3))
    with torch.no_grad():
        logits, state = model(symbols)
        assert state == () and logits.shape == (length, 3, 11)
        for window in range(3):
            torch.testing.assert_close(logits[:, window], by_hand(model, symbols[:, window]), rtol=1e-9, atol=1e-9)


@pytest.mark.slow  # its import takes seconds
def test_it_is_the_gpt2_of_transformers():
    """Outputs and gradients, with its weights copied."""
    transformers = pytest.importorskip("transformers", reason="transformers has the reference")
    ours = scattered()
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3, activation_function="gelu",
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).double()
    names = {"embedding": "wte", "positions": "wpe", "norm": "ln_f"}
    for i in range(2):
        own = {"norm1": "ln_1", "norm2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"}
        own |= {"expand": "mlp.c_fc", "shrink": "mlp.c_proj"}
        names |= {f"blocks.{i}.{name}": f"h.{i}.{other}" for name, other in own.items()}

    def counterpart(name: str) -> tuple[nn.Parameter, bool]:
        """Their parameter, and whether it is transposed."""
        prefix, _, kind = name.rpartition(".")
        module = theirs.transformer.get_submodule(names[prefix])
        return getattr(module, kind), type(module).__name__ == "Conv1D" and kind == "weight"

    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            other, transposed = counterpart(name)
            other.copy_(parameter.T if transposed else parameter)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    symbols = torch.randint(11, (8, 3))
    out = ours(symbols)[0].transpose(0, 1), theirs(symbols.T).logits
    torch.testing.assert_close(*out, rtol=1e-10, atol=1e-10)
    for one in out:
        one.square().mean().backward()
    for name, parameter in ours.named_parameters():
        other, transposed = counterpart(name)
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, other.grad.T if transposed else other.grad, rtol=1e-8, atol=1e-10)


def test_no_prediction_depends_on_what_follows_or_on_other_windows():
    model = scattered()
    symbols = torch.randint(11, (8, 2))
    before = model(symbols)[0]
    changed = symbols.clone()
    changed[5:, 0] = (changed[5:, 0] + 1) % 11
    after = model(changed)[0]
    torch.testing.assert_close(after[:5], before[:5], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after[:, 1], before[:, 1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after[5:, 0], before[5:, 0], atol=0.1)


def test_the_baby_has_its_number_of_parameters_and_one_matrix_at_both_ends():
    """nanoGPT says 0.80 million, without positions."""
    model = build("gpt", 65)
    assert sum(p.numel() for p in model.parameters()) == 804_096
    assert model.head.weight is model.embedding.weight
    assert head().names(model) == ["embedding.weight"]
    assert [name for name, _ in model.named_parameters() if name.endswith("bias")] == []
    assert [name for name, _ in build("gpt", 65, bias=True).named_parameters() if name == "norm.bias"] == ["norm.bias"]


def test_it_starts_as_published():
    """Normal with 0.02, by the root of twice the depth less where a block adds to the stream; biases 0, norms the identity."""
    torch.manual_seed(0)
    model = build("gpt", 300, depth=8, heads=2, width=64, context=200, bias=True)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            std = 0.02 / 4 if name.endswith(("attention.out.weight", "shrink.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=5 / (2 * parameter.numel()) ** 0.5), name
            assert abs(parameter.mean().item()) < 5 * std / parameter.numel() ** 0.5, name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm" in name and name.endswith("weight")))), name
    with torch.no_grad():
        logits = model(torch.randint(300, (50, 2)))[0]
    assert F.cross_entropy(logits.flatten(0, 1), torch.randint(300, (100,))).item() == pytest.approx(math.log(300), rel=0.02)


@pytest.mark.parametrize("key", ["depth", "heads", "width", "context"])
def test_sizes_below_1(key):
    with pytest.raises(ValueError, match=rf"^architecture\.{key}=0 is out of range: choose at least 1\.$"):
        build("gpt", 11, **(SIZES | {key: 0}))


def test_a_width_that_heads_do_not_divide():
    with pytest.raises(
        ValueError, match=r"^architecture\.width=128 is not a multiple of architecture\.heads=3: choose one that is\.$"
    ):
        build("gpt", 11, heads=3)


def test_a_window_that_is_too_long():
    with pytest.raises(ValueError, match=r"^a window has 9 positions, more than architecture\.context=8: choose shorter ones\.$"):
        scattered()(torch.zeros(9, 1, dtype=torch.int64))


def test_it_compiles_into_one_graph_and_trains_in_mixed_precision():
    model = scattered().float()
    symbols = torch.randint(11, (8, 3))
    torch.compile(model, fullgraph=True, backend="eager")(symbols)[0].square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(symbols)[0]
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())


def test_late_phase_layernorm_is_the_scales_and_shifts_of_every_norm():
    model = scattered().float()
    late = LatePhase(model, torch.optim.AdamW(model.parameters(), 0.01), layernorm(), K=2, sigma0=0.1)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5 and late.phi == [f"{name}.{kind}" for name in norms for kind in ("weight", "bias")]
    late.spawn(torch.Generator().manual_seed(0))
    for _ in range(4):
        model(torch.randint(11, (8, 3)))[0].square().mean().backward()
        late.step()
    single = late.average()
    for name, values in late.members.items():
        assert not torch.equal(values[0], values[1])
        torch.testing.assert_close(single.state_dict()[name], values.mean(0))
    assert single.head.weight is single.embedding.weight


def test_rank1_weights_multiply_the_linear_layers_of_the_blocks():
    """Not the last layer, whose matrix is the embedding's, too."""
    model, plain = scattered(), scattered()
    with pytest.raises(ValueError, match=r"^embedding\.weight and head\.weight are one parameter: build .*, or leave it out\.$"):
        parametrize_rank1(model)
    parametrize_rank1(model, 0.5, torch.Generator().manual_seed(0), "blocks.*")
    assert len(rank1().names(model)) == 2 * 2 * 4
    symbols = torch.randint(11, (8, 3))
    with torch.no_grad():
        expected = model(symbols)[0]
        assert not torch.allclose(plain(symbols)[0], expected, atol=0.1)
        plain.load_state_dict(fold(model).state_dict(), strict=True)
        torch.testing.assert_close(plain(symbols)[0], expected)
