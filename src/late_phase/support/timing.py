"""Honest timing: compares pairs of blocks, with the noise of their ratio, and measures costly operations and peak memory."""

from __future__ import annotations

import gc
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EPOCH = 50_000

Block = Callable[[], float]
"""Runs some work and returns its time in seconds per unit of work, such as ``EPOCH`` images."""


def paired(ours: Block, reference: Block, count: int) -> list[tuple[float, float]]:
    """Times pairs of blocks. Every other pair starts with the reference, so that neither side always comes second."""
    pairs = []
    for i in range(count):
        first, second = (reference, ours) if i % 2 else (ours, reference)
        times = first(), second()
        pairs.append(times[::-1] if i % 2 else times)
    return pairs


def interval(values: list[float]) -> tuple[float, float]:
    """Returns an interval that contains the true median with a probability of at least 95 %, for any distribution.

    The i-th smallest of n values is above the median with the probability of fewer than i heads in n throws of a coin. With fewer
    than six values the interval is from the smallest to the largest, and its probability is lower.
    """
    ranked, n, i = sorted(values), len(values), 1
    while 2 * sum(math.comb(n, heads) for heads in range(i + 1)) <= 0.05 * 2**n:
        i += 1
    return ranked[i - 1], ranked[n - i]


def measure(
    name: str, bar: float | None, ours: Block, reference: Block, count: int, gain: bool = False, noisy: bool = False
) -> dict[str, Any]:
    """Measures the ratio of times over pairs, after one warm-up block of each. If it misses the bar, it also profiles both.

    Args:
        bar: the largest allowed ratio ours / reference; with ``gain``, the smallest allowed ratio reference / ours; None if any
            ratio is allowed.
        noisy: whether it is enough that one end of the noise interval reaches the bar.
    """
    ours(), reference()
    pairs = paired(ours, reference, count)
    ratios = [b / a if gain else a / b for a, b in pairs]
    median, noise, (a, b) = statistics.median(ratios), interval(ratios), map(sum, zip(*pairs, strict=True))
    good = [bar is None or (value >= bar if gain else value <= bar) for value in (median, *noise)]
    verdict = "" if bar is None else "met" if good[0] else "within noise" if noisy and any(good) else "missed"
    profiles = {"ours": top_operations(ours), "reference": top_operations(reference)} if verdict == "missed" else {}
    shown = "" if bar is None else f"{'>=' if gain else '<='} {bar:.2f}{' in noise' if noisy else ''}"
    record = {"name": name, "bar": shown, "median": median, "noise": noise, "ratio_of_totals": b / a if gain else a / b}
    return record | {"verdict": verdict, "ratios": ratios, "seconds": pairs, "profiles": profiles}


def top_operations(block: Block, count: int = 5) -> list[str]:
    """Returns the operations with the most time of their own, by time on the device if there is any, or else on the CPU."""
    with torch.profiler.profile() as profile:
        block()
    events = profile.key_averages()
    key = "self_device_time_total" if any(event.self_device_time_total for event in events) else "self_cpu_time_total"
    total = sum(getattr(event, key) for event in events)
    top = sorted(events, key=lambda event: -getattr(event, key))[:count]
    return [f"{getattr(event, key) / total:6.1%}  {event.count:6d} x  {event.key}" for event in top]


def timed(run: Callable[[], object], device: torch.device, amount: float, unit: float = EPOCH) -> float:
    """Returns the seconds per ``unit`` of a ``run`` over an ``amount``, until the device has finished its work.

    By default these are images, and the unit is an epoch of them.
    """
    synchronize = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return (time.perf_counter() - start) * unit / amount


def peak_bytes(run: Callable[[], Any], device: torch.device) -> tuple[int, Any]:
    """Returns the peak of bytes in tensors during ``run``, above the bytes before it, and what ``run`` returned."""
    gc.collect()  # freeing older garbage during the run would lower the peak
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        return torch.cuda.max_memory_allocated(device) - before, result
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    with tempfile.TemporaryDirectory() as directory:
        profile.export_chrome_trace(f"{directory}/trace.json")
        events = json.loads(Path(directory, "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda e: e.get("ts", 0)) if event["name"] == "[memory]"]
    return max(itertools.accumulate(changes, initial=0)), result  # the trace's own total doesn't start at 0
