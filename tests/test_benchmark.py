"""The benchmark measures what it says: pairs, noise, memory, operations; all of it with small sizes. Its page shows the record."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder

from late_phase.benchmark import report
from late_phase.benchmark.late import late_bytes_over_base, late_over_base
from late_phase.benchmark.page import as_markdown, draw, read_records, write_page
from late_phase.benchmark.plain import convolutions_over_plain
from late_phase.benchmark.rates import Convolution, Isolated, convolutions, wrn_over_convolutions
from late_phase.benchmark.report import benchmark
from late_phase.benchmark.streaming import SIZE, write_photos
from late_phase.benchmark.workloads import Sizes, build, memory_format, precisions, train
from late_phase.support.devices import torch_settings
from late_phase.support.errors import UserError
from late_phase.support.files import write_json
from late_phase.support.timing import interval, measure, paired, peak_bytes, top_operations

CPU = torch.device("cpu")


def test_pairs_alternate_and_keep_their_sides():
    order = []

    def block(name: str, times: list[float]):
        times = iter(times)
        return lambda: order.append(name) or next(times)

    pairs = paired(block("ours", [1.0, 2.0, 3.0]), block("reference", [4.0, 5.0, 6.0]), 3)
    assert pairs == [(1.0, 4.0), (2.0, 5.0), (3.0, 6.0)]
    assert order == ["ours", "reference", "reference", "ours", "ours", "reference"]


@pytest.mark.parametrize(
    ("gain", "noisy", "bar", "median", "verdict"),
    [
        (False, False, 2.0, 2.0, "met"),
        (False, False, 1.9, 2.0, "missed"),
        (False, True, 1.0, 2.0, "within noise"),
        (False, True, 0.9, 2.0, "missed"),
        (True, False, 0.5, 0.5, "met"),
        (True, False, 0.6, 0.5, "missed"),
    ],
)
def test_the_ratio_is_the_median_over_pairs_after_a_block_that_does_not_count(gain, noisy, bar, median, verdict):
    ours, reference = iter([99.0, 8.0, 2.0, 1.0, 99.0]), iter([1.0, 1.0, 1.0, 1.0, 1.0])
    record = measure("name", bar, lambda: next(ours), lambda: next(reference), 3, gain, noisy)
    assert record["seconds"] == [(8.0, 1.0), (2.0, 1.0), (1.0, 1.0)]
    assert record["median"] == median
    assert record["ratio_of_totals"] == pytest.approx(3 / 11 if gain else 11 / 3)
    assert record["verdict"] == verdict
    assert bool(record["profiles"]) == (verdict == "missed")


@pytest.mark.parametrize(("n", "left_out"), [(1, 0), (5, 0), (8, 0), (9, 1), (20, 5), (100, 39)])
def test_noise_is_the_tabulated_interval_of_the_median(n, left_out):
    values = [float(value) for value in reversed(range(n))]
    assert interval(values) == (left_out, n - 1 - left_out)


def test_the_profile_names_the_operation_that_takes_the_time():
    a = torch.randn(300, 300)
    top = top_operations(lambda: [a @ a for _ in range(20)] and 0.0)
    assert top[0].split()[-2:] == ["x", "aten::mm"] and " 20 x" in top[0]


def test_peak_bytes_of_known_allocations():
    kept = torch.empty(5_000_000, dtype=torch.uint8)  # before the run, so not part of it

    def run() -> torch.Tensor:
        first = torch.empty(10_000_000, dtype=torch.uint8)
        del first
        second = torch.empty(4_000_000, dtype=torch.uint8)
        return torch.cat((second, kept))

    peak, result = peak_bytes(run, CPU)
    assert peak == 13_000_000  # 4 and 9 million; the first 10 million are gone by then
    assert len(result) == 9_000_000
    del result  # bytes of an earlier profile, freed between this one and the next
    assert peak_bytes(lambda: torch.zeros(1_000_000, dtype=torch.uint8), CPU)[0] == 1_000_000


def test_late_phase_memory_is_the_members_and_the_accumulated_gradient_to_the_byte():
    sizes = Sizes(depth=10, width=1, batch=8, K=4)
    memory = late_bytes_over_base(sizes, CPU)
    normalized = 3 * 16 + 2 * 32 + 2 * 64  # channels
    phi, statistics = 4 * (2 * normalized + 64 * 10 + 10), 4 * 2 * normalized + 8 * 7
    assert memory["bytes"]["members"] == 4 * (2 * phi + statistics)
    # Of the 4 momenta one is the base's own.
    expected = memory["bytes"]["theta_gradient"] + memory["bytes"]["members"] - phi
    assert memory["bytes"]["late"] - memory["bytes"]["base"] == expected
    assert memory["late_bytes_over_base"] == expected / memory["bytes"]["members"]


TINY = Sizes(
    pairs=2,
    depth=10,
    width=1,
    batch=16,  # not the 8 of parallel members
    images=240,
    Ks=(1, 3),
    K=2,
    units=8,
    length=5,
    block={"wrn": 2, "lenet": 2},
    matrix=64,
    photos=6,
    workers=(0, 1),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_everything_is_measured_and_printed(capsys, tmp_path):
    with torch_settings(CPU, None, seed=0):
        write_json(tmp_path / "cpu.json", benchmark(TINY, CPU))
    record = json.loads((tmp_path / "cpu.json").read_text())
    plain = [f"{what}_over_plain_{name}" for name in ("wrn", "lenet") for what in ("epoch", "convolutions")]
    by_precision = [*plain, "wrn_over_matrix", "wrn_over_convolutions"]
    names = {"late_over_base_k1", "late_over_base_k3", *(f"{name}_{own}" for name in by_precision for own in precisions(CPU))}
    names |= {"augment_over_pil", "stream_over_torchvision_one_core", "stream_over_torchvision_all_cores", "rank1_over_lstm"}
    parallel = [f"lenet_k2_batch{batch}" for batch in (8, TINY.batch)] + [f"mlp_k32_batch{2 * TINY.batch}"]
    names |= {f"parallel_over_sequential_{own}" for own in parallel}
    names |= {f"{own}_evaluated_at_once_lenet_k2" for own in ("members", "draws")} | {"draws_evaluated_at_once_mlp_k2"}
    names |= {f"two_processes_over_one_{own}" for own in ("members", "minibatches")}
    measured = {m["name"]: m for part in record["parts"] for m in part["measurements"]}
    assert set(measured) == names
    printed = capsys.readouterr().out
    for m in measured.values():
        # An iteration of 3 members lasts 2 blocks.
        assert len(m["ratios"]) == len(m["seconds"]) == 2
        numbers = [m["median"], m["ratio_of_totals"], *m["noise"], *m["ratios"], *itertools.chain(*m["seconds"])]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert m["verdict"] in (("met", "within noise", "missed") if m["bar"] else ("",))
        assert [len(operations) for operations in m["profiles"].values()] == ([5, 5] if m["verdict"] == "missed" else [])
        assert printed.count(f"{m['name']} is missed") == len(m["profiles"])
        assert f"\n{m['name']} " in printed
    assert record["memory"]["late_bytes_over_base"] > record["memory"]["late_bytes_over_base_less_theta_gradient"] > 0
    assert {"date", "hardware", "versions", "git_commit", "sizes", "total_seconds"} <= set(record)

    paths = write_page(tmp_path)
    assert [path.name for path in paths] == ["README.md", *(f"cpu-late-phase-over-its-base.{end}" for end in ("svg", "png"))]
    text = paths[0].read_text()
    assert all(text.count(f"\n| `{name}`") == 1 for name in names)
    seconds = statistics.median(ours for ours, _ in measured["epoch_over_plain_wrn_fp32"]["seconds"])
    assert f"| {200 * seconds / 60:.1f}" in text
    per_core = statistics.median(50_000 / ours for ours, _ in measured["stream_over_torchvision_one_core"]["seconds"])
    assert f"gives {per_core:.0f} images/s on a core" in text and f"feed {100 * 16 * per_core / 3000:.0f} % (" in text
    shapes = len(measured["wrn_over_convolutions_fp32"]["convolutions"])
    assert text.count(f"\n| {TINY.batch} × ") == shapes * len(precisions(CPU))


@pytest.fixture(scope="module")
def record() -> dict:
    """What is quick to measure, with small sizes."""
    with pytest.MonkeyPatch.context() as patch, torch_settings(CPU, None, seed=0):
        patch.setattr(report, "PARTS", [part for part in report.PARTS if part.axis])
        return json.loads(json.dumps(benchmark(TINY, CPU)))


def test_the_page_has_the_numbers_of_the_record(record, tmp_path):
    write_json(tmp_path / "mine.json", record)
    write_page(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    (part,) = record["parts"]
    for m in part["measurements"]:
        cells = next(line for line in text.splitlines() if line.startswith(f"| `{m['name']}`")).split("|")
        ours, reference = (statistics.median(side) for side in zip(*m["seconds"], strict=True))
        shown = [f"{m['median']:.3f}", "{:.3f} to {:.3f}".format(*m["noise"]), m["verdict"], f"{ours:.4g}", f"{reference:.4g}"]
        assert [cell.strip() for cell in cells[3:-1]] == shown
    assert "## mine: " in text and f"numpy {record['versions']['numpy']}" in text and record["date"] in text
    assert "![Late phase over its base](mine-late-phase-over-its-base.svg)" in text
    for end in ("svg", "png"):
        assert (tmp_path / f"mine-late-phase-over-its-base.{end}").stat().st_size > 1000


def test_the_figure_has_the_time_of_a_minibatch_against_k(record, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("late_phase.benchmark.page.save", lambda figure, path: drawn.append(figure) or [])
    (part,) = record["parts"]
    draw(part, TINY.batch, tmp_path / "x")
    times, ratios = drawn[0].axes
    for number, container in enumerate(times.containers):
        line, (low, high), _ = container
        measured = [[pair[number] * TINY.batch / 50_000 * 1000 for pair in m["seconds"]] for m in part["measurements"]]
        assert list(line.get_xdata()) == [1, 3]
        assert line.get_ydata() == pytest.approx([statistics.median(own) for own in measured])
        assert low.get_ydata() == pytest.approx([min(own) for own in measured])
        assert high.get_ydata() == pytest.approx([max(own) for own in measured])
    assert ratios.containers[0][0].get_ydata() == pytest.approx([m["median"] for m in part["measurements"]])


def test_the_committed_page_is_that_of_the_committed_records():
    folder = ROOT / "results" / "benchmarks"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert as_markdown(read_records(folder)) == text, "`make page` makes it anew"
    for figure in re.findall(r"!\[.*?\]\((.*?)\.svg\)", text):
        assert (folder / f"{figure}.svg").exists() and (folder / f"{figure}.png").exists()


def test_a_file_that_is_no_record_is_refused(tmp_path):
    assert "There is no record yet" in as_markdown(read_records(tmp_path))
    for content in ("{}", "[1]", "null", "{"):
        (tmp_path / "cpu.json").write_text(content)
        with pytest.raises(UserError, match=r"cpu\.json is not a record of make bench \(.*\): make it again, or delete it\."):
            read_records(tmp_path)


def test_operations_are_those_that_torch_counts():
    """Of all convolutions of a WRN, forward and backward: strided ones, and the first, which has no gradient of its inputs."""
    model, inputs = build("wrn", TINY, CPU), torch.randn(3, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        train(model, torch.optim.SGD(model.parameters()), [(inputs, torch.zeros(3, dtype=torch.int64))])
    theirs = sum(flops for operation, flops in counter.get_flop_counts()["Global"].items() if "convolution" in str(operation))
    counted = convolutions(model, inputs)
    assert sum(count * shape.flops for shape, count in counted.items()) == theirs
    assert counted.total() == sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules())
    assert [shape.of_inputs for shape in counted] == [False] + [True] * (len(counted) - 1)


def test_the_rate_in_isolation_is_that_of_all_operations_together():
    shapes = [Convolution((2, 3, 8, 8), (4, 3, 3, 3), (1, 1), (1, 1), inputs) for inputs in (False, True)]
    isolated = Isolated(Counter({shapes[0]: 1, shapes[1]: 2}), torch.float32, torch.channels_last, CPU)
    block = isolated.block()
    seconds = sum(count * shape.flops * isolated.seconds[shape][0] for shape, count in isolated.counted.items())
    assert block == pytest.approx(seconds / isolated.flops)
    for row, shape in zip(isolated.table(), shapes, strict=True):
        assert row["gflop_per_second"] == pytest.approx(1000 / isolated.seconds[shape][0])
        assert (row["count"], row["gflop"]) == (isolated.counted[shape], shape.flops / 1e9)


def test_the_share_of_a_rate_is_a_ratio_of_rates():
    record = wrn_over_convolutions("fp32", None, TINY, CPU)
    for (ours, reference), ratio in zip(record["seconds"], record["ratios"], strict=True):
        assert ratio == pytest.approx((1 / ours) / (1 / reference))
    assert record["verdict"] == record["bar"] == "" and not record["profiles"]


def test_the_convolutions_of_an_epoch_are_those_of_all_its_minibatches(monkeypatch):
    """As if all convolutions of a shape, in the 2 minibatches of a block, took a second. LeNet has 2 shapes."""
    passes = []

    def second(run, device, amount, unit):
        monkeypatch.setattr(Isolated, "_run", lambda _, shape, count: passes.append(count))
        run()
        return unit / amount

    monkeypatch.setattr("late_phase.benchmark.rates.timed", second)
    record = convolutions_over_plain("lenet", "fp32", TINY, CPU)
    assert [ours for ours, _ in record["seconds"]] == [pytest.approx(2 * 50_000 / (2 * TINY.batch))] * TINY.pairs
    assert set(passes) == {2}


@pytest.mark.parametrize(("K", "pairs"), [(1, 2), (2, 2), (5, 3)])
def test_pairs_are_whole_iterations(K, pairs):
    """Blocks have 2 minibatches."""
    record = late_over_base(TINY, CPU, K)
    assert (len(record["ratios"]), record["x"], record["name"]) == (pairs, K, f"late_over_base_k{K}")


def test_photos_are_jpegs_of_imagenets_size(tmp_path):
    write_photos(tmp_path, 4)
    found = ImageFolder(str(tmp_path))
    assert found.targets == [0, 0, 1, 1]
    sizes = [Path(path).stat().st_size for path, _ in found.samples]
    assert 90_000 < statistics.mean(sizes) < 130_000
    for path, _ in found.samples:
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", SIZE)


def test_a_gpu_gets_the_papers_network(main, tmp_path):
    sizes = Sizes.on(torch.device("cuda"), 3)
    assert (sizes.depth, sizes.width, sizes.pairs) == (28, 10, 3) and Sizes.on(CPU) == Sizes()
    if not torch.cuda.is_available():
        status, _ = main("--device", "cuda", "--to", str(tmp_path), script="scripts/benchmark.py")
        assert str(status).startswith("error: --device cuda: torch finds no GPU here: write benchmark.py [-h]")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["wrn", "lenet"])
def test_the_memory_format_is_that_of_training(name):
    config = yaml.safe_load((ROOT / "configs" / "architecture" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert (memory_format(name) == torch.channels_last) == config["channels_last"]


def test_it_needs_no_checkout(tmp_path):
    shutil.copytree(ROOT / "src" / "late_phase", tmp_path / "late_phase")
    code = "from late_phase.benchmark import report, workloads; print(report.__file__, workloads.memory_format('wrn'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path}/late_phase/benchmark/report.py torch.channels_last\n", done.stderr
