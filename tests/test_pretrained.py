"""Weights to start from, out of files of every kind and from a web server on this computer."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pretrained import KINDS, SMALL, assert_same, legacy, plain, refusal, safetensors, start, trained
from torch import Tensor
from torchvision.models import ResNet50_Weights, get_model_weights

from late_phase.architectures import build
from late_phase.architectures.imagenet import current_key
from late_phase.architectures.pretrained import load
from late_phase.support.errors import UserError


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("written", KINDS)
def test_a_model_starts_with_what_the_file_holds(written, name, tmp_path):
    state = trained(name).state_dict()
    weights = KINDS[written](state, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    model = start(name, weights)
    assert_same(model.state_dict(), state)
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.training
    assert sorted(tmp_path.rglob("*")) == before


def test_names_may_be_relative_or_those_of_a_home(tmp_path, monkeypatch):
    state = trained("lenet").state_dict()
    safetensors(state, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_same(start("lenet", "w.safetensors").state_dict(), state)
    assert_same(start("lenet", "~/w.safetensors").state_dict(), state)


@pytest.mark.parametrize("name", SMALL)
def test_for_other_classes_the_last_layer_is_a_fresh_one(name, tmp_path, capsys):
    state = trained(name, classes=7).state_dict()
    weights = safetensors(state, tmp_path)
    for classes in (4, 12):
        model = start(name, weights, classes)
        torch.manual_seed(2)
        fresh = build(name, 3, classes, **SMALL[name])
        head = {"head.weight": fresh.head.weight, "head.bias": fresh.head.bias}
        assert_same(model.state_dict(), state | head)
        assert capsys.readouterr().err == f"architecture.weights={weights}: head is for 7 classes, and starts anew for {classes}.\n"
        with pytest.raises(UserError, match=r"\(2 of another shape: head\."):
            load(model, name, str(weights), whole=True)


def test_numbers_are_converted_to_single_precision(tmp_path):
    state = {key: value.half() if value.is_floating_point() else value for key, value in trained("lenet").state_dict().items()}
    for key, value in start("lenet", plain(state, tmp_path)).state_dict().items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        assert torch.equal(value, state[key].to(value.dtype))


def test_old_files_that_do_not_count_minibatches_will_do(tmp_path):
    state = trained("wrn").state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    loaded = start("wrn", safetensors(kept, tmp_path)).state_dict()
    assert_same({key: loaded[key] for key in kept}, kept)
    assert all(loaded[key] == 0 for key in state.keys() - kept.keys())


def test_dropout_and_shakedrop_are_no_weights(tmp_path):
    state = trained("wrn").state_dict()
    assert_same(start("wrn", safetensors(state, tmp_path), dropout=0.2).state_dict(), state)
    state = trained("pyramidnet", shakedrop=0.0).state_dict()
    assert_same(start("pyramidnet", safetensors(state, tmp_path), shakedrop=0.5).state_dict(), state)


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


# What is done to a LeNet's state dict, and what the refusal says of it.
MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a key too few": (without("conv2.weight"), r"\(1 missing: conv2\.weight\)"),
    "no last layer": (lambda state: [state.pop("head.weight"), state.pop("head.bias")], r"\(2 missing: head\.weight, head\.bias\)"),
    "half a last layer": (without("head.bias"), r"\(1 missing: head\.bias\)"),
    "no running mean": (without("bn1.running_mean"), r"\(1 missing: bn1\.running_mean\)"),
    "a key too many": (lambda state: state.update(extra=torch.ones(1)), r"\(1 unknown: extra\)"),
    "another shape": (
        lambda state: state.update({"conv1.weight": torch.ones(6, 1, 5, 5)}),
        r"\(1 of another shape: conv1\.weight \[6, 1, 5, 5\] instead of \[6, 3, 5, 5\]\)",
    ),
    "a last layer of another width": (
        lambda state: state.update({"head.weight": torch.ones(9, 80), "head.bias": torch.ones(9)}),
        r"\(2 of another shape: head\.weight \[9, 80\] instead of \[7, 84\], head\.bias \[9\] instead of \[7\]\)",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_named(misfit, tmp_path):
    spoil, pattern = MISFITS[misfit]
    state = dict(trained("lenet").state_dict())
    spoil(state)
    weights = plain(state, tmp_path)
    message = refusal("lenet", weights)
    assert message.startswith(f"architecture.weights={weights} doesn't fit architecture=lenet as it is set (")
    assert re.search(pattern, message), message
    assert message.endswith(": choose weights of the same architecture with the same options.")


def test_weights_of_another_size_or_architecture_do_not_fit(tmp_path):
    weights = safetensors(trained("wrn").state_dict(), tmp_path)
    assert "of another shape: " in refusal("wrn", weights, width=2)
    assert "missing: " in refusal("wrn", weights, depth=16)
    assert "missing: " in refusal("lenet", weights)


@pytest.mark.parametrize("weights", ["nowhere.safetensors", "nowhere/w.pth", "IMAGENET1K_V1"])
def test_weights_that_are_not_there(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("wrn", weights)
    end = "no file: choose a file of weights, or the directory of a finished run."
    assert message == f"architecture.weights={weights} of architecture=wrn is {end}"
    assert not list(tmp_path.iterdir())


def test_a_name_that_torchvision_does_not_know():
    message = refusal("resnet50", "IMAGENET1K_V9")
    assert "is neither a file nor one of torchvision's (IMAGENET1K_V1, IMAGENET1K_V2" in message


def test_the_directory_of_an_unfinished_run(tmp_path):
    assert " is no finished run, as it has no model.safetensors: choose a file of weights, or " in refusal("wrn", tmp_path)


def test_a_name_that_can_not_be_one():
    assert "can't be read as weights (OSError): " in refusal("wrn", "n" * 300)


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 not quite", b"\x80\x02]q\x00."])
def test_files_that_hold_something_else(content, file, tmp_path):
    path = tmp_path / file
    path.write_bytes(content)
    message = refusal("lenet", path)
    assert re.search(r" (can't be read as weights \(\w+\)|holds no weights): choose a \.safetensors file, or", message), message
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", ["safetensors", "plain", "legacy"])
def test_files_that_end_too_early(written, tmp_path):
    path = KINDS[written](trained("lenet").state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "can't be read as weights (" in refusal("lenet", path)


@pytest.mark.parametrize("content", [{}, [], {"model": {}}, {"lr": 0.1}, {0: torch.ones(1)}, torch.ones(1)])
def test_torch_files_without_weights(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert " holds no weights: " in refusal("lenet", tmp_path / "w.pth")


def test_a_pickled_model_is_not_run(tmp_path):
    """Unpickling one runs code of the file's choice."""
    torch.save(trained("lenet"), tmp_path / "w.pth")
    assert "can't be read as weights (UnpicklingError): " in refusal("lenet", tmp_path / "w.pth")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of torch's, and no way around this computer's own addresses."""
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server on this computer, the folder that it serves, and what was asked of it."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, format: str, *args) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder, asked
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory) -> tuple[Path, dict[str, Tensor]]:
    """A file as torchvision names it, with the start of its SHA-256, and the weights in it, for 1000 classes."""
    state = trained("resnet50", classes=1000).state_dict()
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state, folder / "w.pth")
    checksum = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()[:8]
    return (folder / "w.pth").rename(folder / f"resnet50-{checksum}.pth"), state


def serve(monkeypatch, url: str, file: str) -> None:
    monkeypatch.setattr(ResNet50_Weights.IMAGENET1K_V1.value, "url", f"{url}/{file}")


def test_weights_of_torchvision_are_downloaded_once(resnet50, hub, server, monkeypatch):
    """For 1000 classes as a whole, for 4 but for the last layer."""
    file, state = resnet50
    url, folder, asked = server
    (folder / file.name).symlink_to(file)
    serve(monkeypatch, url, file.name)
    assert_same(start("resnet50", "IMAGENET1K_V1", 1000).state_dict(), state)
    few = start("resnet50", "IMAGENET1K_V1", 4)
    assert few.fc.weight.shape == (4, 2048) and 0 < few.fc.weight.abs().max() <= 2048**-0.5  # the trained one's are above 0.5
    assert_same(few.state_dict(), state | {"fc.weight": few.fc.weight, "fc.bias": few.fc.bias})
    assert asked == [f"/{file.name}"]
    assert [path.name for path in hub.iterdir()] == [file.name]


def test_a_download_with_another_checksum_leaves_nothing(hub, server, monkeypatch):
    url, folder, _ = server
    torch.save({"a": torch.ones(1)}, folder / "resnet50-0123abcd.pth")
    serve(monkeypatch, url, "resnet50-0123abcd.pth")
    message = refusal("resnet50", "IMAGENET1K_V1")
    assert 'could not be downloaded (invalid hash value (expected "0123abcd", got ' in message
    assert not list(hub.iterdir())


def test_without_a_network_it_says_what_to_put_where(hub, monkeypatch):
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        serve(monkeypatch, url, "resnet50-0676ba61.pth")
        message = refusal("resnet50", "IMAGENET1K_V1")
    assert re.fullmatch(
        r"architecture\.weights=IMAGENET1K_V1 of resnet50 could not be downloaded \(.*refused.*\): put resnet50-0676ba61\.pth from "
        + re.escape(f"{url}/resnet50-0676ba61.pth into {hub}, or set architecture.weights=FILE."),
        message,
    ), message
    assert not list(hub.iterdir())


def test_what_was_put_there_by_hand_is_taken(resnet50, hub, monkeypatch):
    file, state = resnet50
    serve(monkeypatch, "http://127.0.0.1:9", file.name)
    hub.mkdir(parents=True)
    (hub / file.name).symlink_to(file)
    assert_same(start("resnet50", "IMAGENET1K_V1", 1000).state_dict(), state)


def test_what_is_damaged_in_the_cache_is_named(hub, monkeypatch):
    serve(monkeypatch, "http://127.0.0.1:9", "resnet50-0676ba61.pth")
    hub.mkdir(parents=True)
    (hub / "resnet50-0676ba61.pth").write_bytes(b"PK\x03\x04 not quite")
    message = refusal("resnet50", "IMAGENET1K_V1")
    assert re.search(
        r"can't be read as weights \(\w+\): remove " + re.escape(str(hub)) + r"\S+, and it is downloaded again\.$", message
    )


@pytest.mark.parametrize("name", ["resnet50", "resnet152", "densenet161"])
def test_torchvision_offers_the_weights_that_the_paper_started_from(name):
    assert "IMAGENET1K_V1" in get_model_weights(name).__members__


def test_the_keys_of_a_densenet_as_torchvision_stores_them(tmp_path):
    """``norm.1`` for today's ``norm1``, in files of a time when names of modules had dots, in the old format, without counts."""
    state = trained("densenet161", classes=5).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(norm|conv))([12])\.", r"\1.\3.", key): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock4.denselayer24.conv.2.weight" in old and len(old.keys() - state.keys()) == 78 * 10
    loaded = start("densenet161", legacy(old, tmp_path), 5).state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert_same({key: loaded[key] for key in kept}, kept)
    assert all(current_key(key) == key for key in state)
