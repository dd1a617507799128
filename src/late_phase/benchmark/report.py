"""The report of all measurements: prints them as they finish, and returns their record."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from late_phase.benchmark.language import rank1_over_lstm
from late_phase.benchmark.workloads import (
    Sizes,
    augment_over_pil,
    epoch_over_plain,
    k50_over_k1,
    late_bytes_over_base,
    late_over_base,
    step_microseconds,
)
from late_phase.runs.provenance import device_name, git_commit
from late_phase.support.timing import EPOCH

COLUMNS = "{:24} {:>8} {:>9} {:>8} {:>17} {:>6}  {:>9}  {:16} {}"


def measurements(sizes: Sizes, device: torch.device) -> Iterator[dict[str, Any]]:
    yield late_over_base(sizes, device)
    yield k50_over_k1(sizes, device)
    yield augment_over_pil(sizes)
    yield epoch_over_plain("wrn", 0.85, sizes, device)
    yield epoch_over_plain("lenet", 0.5, sizes, device)
    yield rank1_over_lstm(sizes, device)


def benchmark(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Makes and prints all measurements. Returns all numbers."""
    start = time.monotonic()
    machine = {"torch": torch.__version__, "device": device_name(device), "threads": torch.get_num_threads()}
    machine |= {"cores": sizes.workers[-1], "git_commit": git_commit()}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    what = f"WRN {sizes.depth}-{sizes.width}, LSTM of {sizes.units} units, minibatches of {sizes.batch}"
    print(f"{what}; ours and reference in seconds per {EPOCH:,} images, or bytes\n")
    print(COLUMNS.format("", "ours", "reference", "ratio", "noise", "pairs", "of totals", "bar", ""), flush=True)
    records = []
    for m in measurements(sizes, device):
        ours, reference = (f"{statistics.median(side):.4g}" for side in zip(*m["seconds"], strict=True))
        noise, (median, totals) = "{:.3f} to {:.3f}".format(*m["noise"]), (f"{m[key]:.3f}" for key in ("median", "ratio_of_totals"))
        shown = ours, reference, median, noise, len(m["ratios"]), totals, m["bar"], m["verdict"]
        print(COLUMNS.format(m["name"], *shown), flush=True)
        records.append(m)
    step = step_microseconds(sizes, device)
    print("step() alone, mean microseconds: " + ", ".join(f"{name} {time:.0f}" for name, time in step.items()))
    memory = late_bytes_over_base(sizes, device)
    for key in ("late_bytes_over_base", "late_bytes_over_base_less_theta_gradient"):
        print(f"{key:42} {memory[key]:9.3f}")
    print(
        "\nratio: median over pairs. noise: 95 % interval of that median, or smallest to largest ratio with fewer than 6 pairs."
        "\nof totals: our total seconds divided by the reference's, or the inverse if the bar is a gain in speed (>=)."
        "\nlate_bytes: peak memory in excess of the base's, divided by the members' memory. Algorithm 1 keeps the accumulated"
        "\ngradient of θ through all inner steps, and the base frees its gradients at each. The second number is without it."
    )
    for m in records:
        for side, operations in m["profiles"].items():
            print(f"\n{m['name']} is missed. Slowest operations, {side}:", *operations, sep="\n")
    seconds = time.monotonic() - start
    print(f"\n{seconds:.0f} s")
    return machine | {"total_seconds": seconds, "sizes": asdict(sizes), "measurements": records, "step": step, "memory": memory}
