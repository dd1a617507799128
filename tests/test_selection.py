"""Rules against the names that a reader of the model would list."""

from __future__ import annotations

import pytest
import torch
from models import Nested, plain
from torch import Tensor, nn

from late_phase import Selection, batchnorm, by_name, by_predicate, by_type, head, layernorm, nothing
from late_phase.architectures import build

NESTED = [
    "scale",
    "stem.weight",
    "stem.bias",
    "blocks.0.0.inner.norm.weight",
    "blocks.0.0.inner.norm.bias",
    "blocks.0.1.weight",
    "blocks.0.1.bias",
    "blocks.1.0.inner.norm.weight",
    "blocks.1.0.inner.norm.bias",
    "blocks.1.1.weight",
    "blocks.1.1.bias",
    "out.inner.norm.weight",
    "out.inner.norm.bias",
    "classifier.weight",
    "classifier.bias",
]
NORMS = [name for name in NESTED if ".norm." in name]
HEAD = ["classifier.weight", "classifier.bias"]


class Tied(nn.Module):
    """An embedding whose weight is the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.middle = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(self.embedding(x)))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (batchnorm(), NORMS),
        (head(), HEAD),
        (head("classifier"), HEAD),
        (head("blocks.1.1"), ["blocks.1.1.weight", "blocks.1.1.bias"]),
        (nothing(), []),
        (by_name("scale"), ["scale"]),
        (by_name("stem"), ["stem.weight", "stem.bias"]),
        (by_name("blocks.0"), NESTED[3:7]),
        (by_name("*.bias"), [name for name in NESTED if name.endswith(".bias")]),
        (by_name("blocks.?.1"), [*NESTED[5:7], *NESTED[9:11]]),
        (by_name("classifier", "stem.weight"), ["stem.weight", *HEAD]),
        (by_name("*"), NESTED),
        (by_type(nn.Conv2d), [*NESTED[1:3], *NESTED[5:7], *NESTED[9:11]]),
        (by_type(nn.Linear, nn.BatchNorm2d), [*NORMS, *HEAD]),
        (by_type(Nested), NESTED),
        (by_type(nn.ModuleList), NESTED[3:11]),
        (by_predicate(lambda name, parameter: parameter.dim() == 4), [NESTED[1], NESTED[5], NESTED[9]]),
        (batchnorm() + head(), [*NORMS, *HEAD]),
        (head() + batchnorm() + by_name("classifier.bias"), [*NORMS, *HEAD]),
        (nothing() + head(), HEAD),
    ],
    ids=repr,
)
def test_names_are_in_the_models_order(select, expected):
    assert [name for name, _ in Nested().named_parameters()] == NESTED
    assert select.names(Nested()) == expected


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("scale", ["scale"]),
        (["stem", "*.norm"], ["stem.weight", "stem.bias", *NORMS]),
        ("type:BatchNorm2d", NORMS),
        ("type:_BatchNorm", NORMS),
        ("type:Conv*", [*NESTED[1:3], *NESTED[5:7], *NESTED[9:11]]),
        (("type:Linear", "scale"), ["scale", *HEAD]),
        ("type:Normed", NORMS),
        (batchnorm(), NORMS),
    ],
)
def test_strings_will_do(select, expected):
    assert Selection.of(select).names(Nested()) == expected


@pytest.mark.parametrize(
    ("pattern", "close"),
    [
        ("stem.wieght", "did you mean stem.weight"),
        ("clasifier", "did you mean classifier"),
        ("type:BatchNrom2d", "did you mean BatchNorm2d? Or choose from the classes"),
        ("type:LayerNorm", "choose from the classes of model.modules()."),
        ("qwertz", "choose from the names"),
        ("", "choose from the names"),
    ],
)
def test_a_wrong_pattern_lists_names_close_to_it(pattern, close):
    with pytest.raises(ValueError) as caught:
        Selection.of(pattern).names(Nested())
    assert f"by_name({pattern!r}) matches no parameter of Nested: {close}" in str(caught.value)


def test_layernorm_is_all_that_normalizes_an_example_by_itself():
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    class Own(nn.LayerNorm):
        pass

    layers = {
        "layer": nn.LayerNorm(2),
        "own": Own(2),
        "no_shift": nn.LayerNorm(2, bias=False),
        "rms": nn.RMSNorm(2),
        "llama": LlamaRMSNorm(),
        "batch": nn.BatchNorm1d(2),
        "group": nn.GroupNorm(1, 2),
        "linear": nn.Linear(2, 2),
    }
    expected = ["layer.weight", "layer.bias", "own.weight", "own.bias", "no_shift.weight", "rms.weight", "llama.weight"]
    assert layernorm().names(nn.ModuleDict(layers)) == expected
    with pytest.raises(ValueError, match=r"layernorm\(\) matches no parameter"):
        layernorm().names(plain())


def test_names_are_exact_not_prefixes():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    assert by_name("1").names(model) == ["1.weight", "1.bias"]
    assert head("1").names(model) == ["1.weight", "1.bias"]
    assert by_name("1?").names(model) == ["10.weight", "10.bias", "11.weight", "11.bias"]


def test_all_kinds_of_batchnorm_and_no_other_norm():
    class Own(nn.BatchNorm2d):
        pass

    layers = {
        "one": nn.BatchNorm1d(2),
        "two": nn.BatchNorm2d(2),
        "three": nn.BatchNorm3d(2),
        "sync": nn.SyncBatchNorm(2),
        "own": Own(2),
        "layer": nn.LayerNorm(2),
        "group": nn.GroupNorm(1, 2),
        "instance": nn.InstanceNorm2d(2, affine=True),
        "no": nn.BatchNorm2d(2, affine=False),
    }
    chosen = batchnorm().names(nn.ModuleDict(layers))
    assert chosen == [f"{name}.{key}" for name in ("one", "two", "three", "sync", "own") for key in ("weight", "bias")]


def test_the_papers_selections_in_its_networks():
    """Late-phase weights of WRN 28-10: scales and shifts of 25 BatchNorm layers, and with the last layer 6,410 more."""
    with torch.device("meta"):
        model = build("wrn", 3, 10, depth=28, width=10)
    parameters = dict(model.named_parameters())
    norms = batchnorm().names(model)
    assert len(norms) == 2 * 25
    channels = (16 + 7 * 160) + (160 + 7 * 320) + (320 + 7 * 640) + 640
    assert sum(parameters[name].numel() for name in norms) == 2 * channels
    last = head().names(model)
    assert last == ["head.weight", "head.bias"]
    assert sum(parameters[name].numel() for name in last) == 640 * 10 + 10
    assert head().names(build("lenet", 3, 10)) == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    "select", [by_name("out.weight"), by_name("embedding"), by_type(nn.Embedding), head() + by_name("embedding")]
)
def test_a_tied_parameter_goes_by_its_first_name(select):
    names = select.names(Tied())
    assert names.count("embedding.weight") == 1 and "out.weight" not in names


@pytest.mark.parametrize(
    ("select", "spelling"),
    [
        (by_name("stem", "sten"), r"by_name\('sten'\)"),
        (by_type(nn.LSTM, nn.GRU), r"by_type\(LSTM, GRU\)"),
        (head("classifer"), r"head\('classifer'\)"),
        (head() + by_type(nn.LayerNorm), r"by_type\(LayerNorm\)"),
        (by_predicate(lambda name, parameter: False), r"by_predicate\(<lambda>\)"),
    ],
    ids=repr,
)
def test_a_rule_that_picks_nothing_is_refused(select, spelling):
    with pytest.raises(ValueError, match=rf"^{spelling} matches no parameter of Nested: .*\.$"):
        select.names(Nested())


def test_what_a_model_has_not():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    for select, spelling in ((head(), r"head\(\)"), (batchnorm(), r"batchnorm\(\)")):
        with pytest.raises(ValueError, match=rf"^{spelling} matches no parameter of Sequential"):
            select.names(model)


def test_frozen_weights_are_refused_only_if_selected():
    model = plain()
    model[1].bias.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"late-phase weight 1\.bias is frozen: call requires_grad_\(True\) on it .* batchnorm\(\) \+ head\(\)\.$"
    ):
        (batchnorm() + head()).names(model)
    assert head().names(model) == ["6.weight", "6.bias"]


def test_selections_are_spelt_as_they_are_made():
    select = batchnorm() + by_name("a.*", "b") + head("c") + head() + by_type(nn.Linear, nn.Conv2d)
    assert repr(select) == "batchnorm() + by_name('a.*') + by_name('b') + head('c') + head() + by_type(Linear, Conv2d)"
    assert repr(nothing()) == "nothing()"
    with pytest.raises(TypeError):
        batchnorm() + "head"
