"""The benchmark measures what it says: pairs, noise, memory; and all of it with small sizes."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT

from late_phase.benchmark.report import benchmark
from late_phase.benchmark.workloads import Sizes, late_bytes_over_base, memory_format
from late_phase.support.devices import torch_settings
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_everything_is_measured_and_printed(capsys):
    sizes = Sizes(
        pairs=2, depth=10, width=1, batch=8, images=240, K=2, units=8, length=5, block={"wrn": 2, "lenet": 2}, workers=(0, 1)
    )
    with torch_settings(CPU, None, seed=0):
        record = json.loads(json.dumps(benchmark(sizes, CPU)))
    names = [
        "late_over_base",
        "k10_over_k1",
        "augment_over_pil",
        "epoch_over_plain_wrn",
        "epoch_over_plain_lenet",
        "rank1_over_lstm",
    ]
    assert [m["name"] for m in record["measurements"]] == names
    printed = capsys.readouterr().out
    for m in record["measurements"]:
        assert len(m["ratios"]) == len(m["seconds"]) == (5 if m["name"] == "k10_over_k1" else 2)
        numbers = [m["median"], m["ratio_of_totals"], *m["noise"], *m["ratios"], *itertools.chain(*m["seconds"])]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert m["verdict"] in ("met", "within noise", "missed")
        assert [len(operations) for operations in m["profiles"].values()] == ([5, 5] if m["verdict"] == "missed" else [])
        assert printed.count(f"{m['name']} is missed") == len(m["profiles"])
        assert f"\n{m['name']} " in printed
    assert record["memory"]["late_bytes_over_base"] > record["memory"]["late_bytes_over_base_less_theta_gradient"] > 0
    assert {"torch", "device", "threads", "git_commit", "sizes", "total_seconds"} <= set(record)


@pytest.mark.parametrize("name", ["wrn", "lenet"])
def test_the_memory_format_is_that_of_training(name):
    config = yaml.safe_load((ROOT / "configs" / "architecture" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert (memory_format(name) == torch.channels_last) == config["channels_last"]


def test_it_needs_no_checkout(tmp_path):
    shutil.copytree(ROOT / "src" / "late_phase", tmp_path / "late_phase")
    code = "from late_phase.benchmark import report, workloads; print(report.__file__, workloads.memory_format('wrn'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path}/late_phase/benchmark/report.py torch.channels_last\n", done.stderr
