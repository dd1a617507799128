"""How a run computes: precision, compilation, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import TINY, history, run_until
from safetensors.torch import load_file
from torch.testing import assert_close

from late_phase.support import devices
from late_phase.support.devices import autocast, precision_on, tf32, torch_settings
from late_phase.support.errors import UserError
from late_phase.training.computing import Compiled, forward_of, in_words, timed
from late_phase.training.loop import run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def products() -> list[str]:
    """How NVIDIA GPUs compute float32 products."""
    return [
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
    ]


def record_of(directory: Path) -> dict:
    return json.loads((directory / "metrics.json").read_text())


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that have been compiled. Nothing is done with them."""
    compiled, compile_ = [], torch.compile

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda model, mode, dynamic: compile_(model, backend=backend, dynamic=dynamic))
    return compiled


@pytest.mark.parametrize("method", ["batchnorm", "rank1"])
def test_a_run_compiles_once_and_is_the_run_of_the_eager_model(method, composed, tmp_path, graphs):
    """Members change, T0 passes, and the last minibatch of an epoch is smaller."""
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    run(composed(*TINY, f"late_phase={method}"), plain)
    assert not graphs
    run(composed(*TINY, f"late_phase={method}", "compute.compile=true"), compiled)
    assert len(graphs) == 1
    assert_close(load_file(compiled / "model.safetensors"), load_file(plain / "model.safetensors"), rtol=0, atol=1e-5)
    assert record_of(compiled)["compile_seconds"] >= 0 and "compile_seconds" not in record_of(plain)


def test_a_larger_minibatch_is_compiled_and_a_smaller_one_is_not(graphs):
    forward = Compiled(torch.nn.Linear(3, 2), None)
    for size, compiled in ((4, 1), (2, 1), (4, 1), (8, 2), (4, 2)):
        assert_close(forward(x := torch.randn(size, 3)), forward.model(x))
        assert len(graphs) == compiled


@pytest.mark.parametrize(
    ("chosen", "device", "processes", "parallel_members", "compiled"),
    [
        ("false", CUDA, 1, 1, False),
        ("true", CPU, 1, 1, True),
        ("reduce-overhead", CPU, 1, 1, True),
        ("auto", CPU, 1, 1, False),
        ("auto", CUDA, 1, 1, True),
        ("auto", CUDA, 2, 1, False),
        ("auto", CUDA, 1, 3, False),
    ],
)
def test_auto_compiles_on_a_gpu_where_it_can(chosen, device, processes, parallel_members, compiled, composed):
    config = composed(*TINY, f"compute.compile={chosen}", f"late_phase.parallel_members={parallel_members}")
    model = torch.nn.Linear(1, 1)
    assert isinstance(forward_of(model, config, device, processes), Compiled) == compiled


def test_the_mode_is_torchs(composed, monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda model, mode, dynamic: modes.append(mode))
    for chosen in ("true", "reduce-overhead"):
        forward_of(torch.nn.Linear(1, 1), composed(*TINY, f"compute.compile={chosen}"), CPU, 1)
    assert modes == [None, "reduce-overhead"]


def test_the_time_of_compiling_is_that_of_the_first_two_steps_in_excess_of_the_third(monkeypatch):
    now = iter([0.0, 10.0, 20.0, 22.5, 30.0, 31.0, 40.0, 50.0, 51.0, 60.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    told: list[float] = []
    assert list(timed(iter("abc"), told.append)) == ["a", "b", "c"]
    assert told == [10.5]
    assert list(timed(iter("a"), told.append)) == ["a"] and len(told) == 1


@pytest.mark.parametrize(
    ("chosen", "device", "able", "pays", "precision"),
    [
        ("fp32", CUDA, True, True, "fp32"),
        ("tf32", CUDA, False, True, "tf32"),
        ("tf32", CPU, True, True, "fp32"),
        ("bf16", CPU, False, False, "bf16"),
        ("auto", CUDA, True, False, "bf16"),
        ("auto", CUDA, False, True, "fp32"),
        ("auto", CPU, True, True, "bf16"),
        ("auto", CPU, True, False, "fp32"),
        ("auto", CPU, False, True, "fp32"),
    ],
)
def test_auto_is_bf16_where_it_is_faster(chosen, device, able, pays, precision, monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda _: able)
    assert precision_on(device, chosen, pays) == precision


def test_tf32_needs_a_gpu(composed, tmp_path):
    with pytest.raises(UserError, match=r"precision=tf32 needs an NVIDIA GPU, and the run computes on cpu: choose fp32, bf16 or"):
        run(composed(*TINY, "compute.precision=tf32"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_fp32_on_a_gpu_is_fp32_and_tf32_is_tf32_everywhere():
    """Torch's own default is TensorFloat-32 for convolutions only."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with torch_settings(CPU, None, seed=0):
        assert "tf32" not in products()
        with autocast(CUDA, "tf32"):
            assert products() == ["tf32"] * 3
        assert "tf32" not in products()
        assert not torch.backends.cudnn.allow_tf32, "torch's older switches can still be read"
    with torch_settings(CPU, None, seed=0, precision="tf32"):
        assert products() == ["tf32"] * 3 and torch.get_float32_matmul_precision() == "high"
    with pytest.raises(KeyError), tf32(True):
        raise KeyError
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_bf16_follows_fp32(composed, tmp_path):
    """For an epoch. Then minibatches of 8 images drive BatchNorm apart."""
    for precision in ("fp32", "bf16"):
        run(composed(*TINY, "optimizer.lr=0.001", f"compute.precision={precision}"), tmp_path / precision)
        assert record_of(tmp_path / precision)["precision"] == precision
    one, other = (float(history(tmp_path / precision)[0]["train_loss_nats"]) for precision in ("fp32", "bf16"))
    assert one != other and one == pytest.approx(other, rel=0.03)


@pytest.mark.parametrize(("first", "second"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_run_goes_on_in_another_precision_and_its_record_says_so(first, second, composed, tmp_path):
    directory = tmp_path / "digits" / "tiny" / "seed=0"
    run_until(20, composed(*TINY, f"compute.precision={first}"), directory)
    record = run(composed(*TINY, f"compute.precision={second}"), directory)
    assert record["precision"] == f"{first}, then {second}"
    with pytest.raises(UserError, match=rf"holds a run with another config \(compute.precision: {second} -> {first}\)"):
        run(composed(*TINY, f"compute.precision={first}"), directory)


def test_auto_is_what_it_stands_for(composed, tmp_path):
    """LeNet is faster in fp32 on every CPU."""
    for name, options in (("auto", ["compute.precision=auto", "compute.compile=auto"]), ("plain", [])):
        run(composed(*TINY, *options), tmp_path / name)
    assert history(tmp_path / "auto") == history(tmp_path / "plain")
    assert record_of(tmp_path / "auto")["metrics"] == record_of(tmp_path / "plain")["metrics"]
    assert record_of(tmp_path / "auto")["precision"] == "fp32"


def test_a_run_says_how_it_computes(composed, tmp_path, capsys):
    threads = torch.get_num_threads()
    on = f"computing on cpu ({threads} thread{'s' * (threads > 1)})"
    run(composed(*TINY, "runtime.progress=true"), tmp_path / "run")
    assert f"{on} in fp32, 1 member at a time" in capsys.readouterr().out
    config = composed(*TINY, "architecture=wrn", "compute.precision=bf16", "late_phase.parallel_members=3")
    assert in_words(config, CPU, True) == f"{on} in bf16, channels_last, compiled, 3 members at a time"
    assert in_words(composed(*TINY, "late_phase=none", "late_phase.K=1"), CPU, False) == f"{on} in fp32"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compute.precision=fp16", "compute.precision=fp16 is unknown: choose one of fp32, tf32, bf16, auto."),
        ("compute.compile=often", "compute.compile=often is unknown: choose one of false, true, reduce-overhead, auto."),
        ("compute.compile='true'", "compute.compile=true is unknown: choose one of false, true, reduce-overhead, auto."),
        ("compute.compile=1", "compute.compile=1 is unknown: choose one of false, true, reduce-overhead, auto."),
        ("compute.compile=2", "compute.compile=2 is unknown: choose one of false, true, reduce-overhead, auto."),
    ],
)
def test_unknown_ways_to_compute_are_refused(override, message, composed):
    with pytest.raises(UserError) as refused:
        composed(*TINY, override)
    assert str(refused.value) == message
