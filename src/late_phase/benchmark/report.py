"""The list of all measurements: makes them, prints them as they finish, and returns their record."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import PIL
import torch
import torchvision

from late_phase.benchmark.language import rank1_over_lstm
from late_phase.benchmark.late import late_bytes_over_base, late_over_base, step_microseconds
from late_phase.benchmark.plain import augment_over_pil, convolutions_over_plain, epoch_over_plain
from late_phase.benchmark.rates import wrn_over_convolutions, wrn_over_matrix
from late_phase.benchmark.streaming import streaming
from late_phase.benchmark.together import evaluated_at_once, parallel_over_sequential, two_over_one
from late_phase.benchmark.workloads import Sizes, precisions
from late_phase.checks import MEMBERS, MINIBATCHES
from late_phase.runs.provenance import device_name, git_commit
from late_phase.support.devices import cores

IMAGES, BYTES, OPERATIONS = "50,000 images", "50,000 bytes", "10^12 operations"
"""Units of work, of which the seconds are measured."""

COLUMNS = "{:34} {:>9} {:>9} {:>8} {:>17} {:>6}  {:>9}  {:16} {}"

Made = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Measurements that belong together.

    Attributes:
        title, text: what they are, for readers of the page.
        unit: of the work whose seconds are measured.
        make: yields the records of :func:`late_phase.support.timing.measure`. The page plots those with an ``x`` against it.
        axis: what ``x`` is.
        epochs: the page projects the minutes of so many epochs of CIFAR.
    """

    title: str
    text: str
    unit: str
    make: Callable[[Sizes, torch.device], Made]
    axis: str = ""
    epochs: int = 0


def late(sizes: Sizes, device: torch.device) -> Made:
    for K in sizes.Ks:
        yield late_over_base(sizes, device, K)


PLAIN = {("wrn", "fp32"): 0.72, ("wrn", "bf16"): 0.40, ("lenet", "fp32"): 0.20}
"""Bars of ``epoch_over_plain`` on two cores, by architecture and our precision."""


def plain(sizes: Sizes, device: torch.device) -> Made:
    for name in ("wrn", "lenet"):
        for precision in precisions(device):
            bar = PLAIN.get((name, precision)) if device.type == "cpu" else None
            yield epoch_over_plain(name, precision, bar, sizes, device)
            yield convolutions_over_plain(name, precision, sizes, device)


def rates(sizes: Sizes, device: torch.device) -> Made:
    for precision in precisions(device):
        yield wrn_over_matrix(precision, 0.45 if (device.type, precision) == ("cuda", "bf16") else None, sizes, device)
    for precision in precisions(device):
        yield wrn_over_convolutions(precision, 0.85 if (device.type, precision) == ("cpu", "fp32") else None, sizes, device)


def data(sizes: Sizes, device: torch.device) -> Made:
    yield augment_over_pil(sizes)
    yield from streaming(sizes)


def members(sizes: Sizes, device: torch.device) -> Made:
    for name, K, batch in (("lenet", sizes.K, 8), ("lenet", sizes.K, sizes.batch), ("mlp", 32, 2 * sizes.batch)):
        bar = 0.6 if (name, device.type) == ("lenet", "cpu") else 0.2 if name == "lenet" else None
        yield parallel_over_sequential(name, K, batch, bar, device, sizes.pairs)
    for name, whole in (("lenet", False), ("lenet", True), ("mlp", True)):
        yield evaluated_at_once(name, sizes.K, whole, device, sizes.pairs)


def processes(sizes: Sizes, device: torch.device) -> Made:
    if device.type == "cpu":
        for divide in (MEMBERS, MINIBATCHES):
            yield two_over_one(divide, sizes)


def language(sizes: Sizes, device: torch.device) -> Made:
    yield rank1_over_lstm(sizes, device)


PARTS = (
    Part(
        "Late phase over its base",
        "A minibatch of late-phase training with K members, of the WRN, against the same optimizer without LatePhase.",
        IMAGES,
        late,
        axis="K",
    ),
    Part(
        "Ours over a plain loop",
        "An epoch as we train it, with its data and with 10 members, in the precision that is named; against a user's own loop of "
        "torch and torchvision in fp32, with a DataLoader that has the fastest number of workers. Then only the convolutions "
        "of this epoch, each by itself, against the same loop: no training with torch's convolutions takes less than them.",
        IMAGES,
        plain,
        epochs=200,
    ),
    Part(
        "Share of the machine's rate",
        "The rate of operations in late-phase training of the WRN, with all that a step does: over the rate of a product of large "
        "matrices, and over the rate that convolutions of its own shapes reach by themselves.",
        OPERATIONS,
        rates,
    ),
    Part(
        "Input pipeline",
        "Augmented CIFAR images against PIL in a DataLoader. ImageNet's loader against torchvision's ImageFolder in a DataLoader, "
        "on JPEGs of 500 × 375 pixels and 110 kB that are made for it: on one core, and with a worker for each core.",
        IMAGES,
        data,
    ),
    Part(
        "Members in one pass",
        "Members that share one forward and one backward pass (late_phase.parallel_members) against members one after the other: "
        "the ConvNet with late-phase BatchNorm, and an MLP for tables with late-phase adapters. Then only the forward pass, in "
        "evaluation mode, of members that differ in late-phase weights, and of draws that differ in all weights.",
        IMAGES,
        members,
    ),
    Part(
        "Two processes over one",
        "Late-phase training of the WRN in two processes against one process, with the same cores. After T0 the processes divide "
        "members, or each minibatch, over which BatchNorm then normalizes. Plain data parallelism exchanges all gradients for each "
        "minibatch.",
        IMAGES,
        processes,
    ),
    Part(
        "Language model",
        "The LSTM of Table 6 with 10 rank-1 members against torch's fused LSTM.",
        BYTES,
        language,
    ),
)


def machine(device: torch.device) -> dict[str, Any]:
    """Returns the hardware, and the versions that the times depend on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}
    versions |= {"numpy": np.__version__, "pillow": PIL.__version__}
    if device.type == "cuda":
        versions["cuda"] = torch.version.cuda
    hardware = {
        "device": device_name(device),
        "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {"hardware": hardware, "versions": versions}


def benchmark(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Makes and prints all measurements. Returns all numbers."""
    start, date = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    made = machine(device) | {"git_commit": git_commit(), "date": date}
    print(", ".join(f"{key} {value}" for key, value in (made["hardware"] | made["versions"]).items()))
    print(f"WRN {sizes.depth}-{sizes.width}, LSTM of {sizes.units} units, minibatches of {sizes.batch}")
    parts = []
    for part in PARTS:
        print(f"\n{part.title}; ours and reference in seconds per {part.unit}")
        print(COLUMNS.format("", "ours", "reference", "ratio", "noise", "pairs", "of totals", "bar", ""), flush=True)
        records = []
        for m in part.make(sizes, device):
            ours, reference = (f"{statistics.median(side):.4g}" for side in zip(*m["seconds"], strict=True))
            noise, (median, totals) = (
                "{:.3f} to {:.3f}".format(*m["noise"]),
                (f"{m[key]:.3f}" for key in ("median", "ratio_of_totals")),
            )
            shown = ours, reference, median, noise, len(m["ratios"]), totals, m["bar"], m["verdict"]
            print(COLUMNS.format(m["name"], *shown).rstrip(), flush=True)
            records.append(m)
        about = {"title": part.title, "text": part.text, "unit": part.unit, "axis": part.axis, "epochs": part.epochs}
        parts.append(about | {"measurements": records})
    step = step_microseconds(sizes, device)
    print("\nstep() alone, mean microseconds: " + ", ".join(f"{name} {time:.0f}" for name, time in step.items()))
    memory = late_bytes_over_base(sizes, device)
    for key in ("late_bytes_over_base", "late_bytes_over_base_less_theta_gradient"):
        print(f"{key:42} {memory[key]:9.3f}")
    print(
        "\nratio: median over pairs. noise: 95 % interval of that median, or smallest to largest ratio with fewer than 6 pairs."
        "\nof totals: our total seconds divided by the reference's, or the inverse if the bar is a gain in speed (>=)."
        "\nlate_bytes: peak memory in excess of the base's, divided by the members' memory. Algorithm 1 keeps the accumulated"
        "\ngradient of θ through all inner steps, and the base frees its gradients at each. The second number is without it."
    )
    for m in (m for part in parts for m in part["measurements"]):
        for side, operations in m["profiles"].items():
            print(f"\n{m['name']} is missed. Slowest operations, {side}:", *operations, sep="\n")
    seconds = time.monotonic() - start
    print(f"\n{seconds:.0f} s")
    return made | {"total_seconds": seconds, "sizes": asdict(sizes), "parts": parts, "step": step, "memory": memory}
