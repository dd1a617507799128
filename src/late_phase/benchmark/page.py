"""The page of the benchmarks: all records in a folder, as Markdown and as figures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from late_phase.reporting.figures import save
from late_phase.reporting.runs import markdown
from late_phase.support.errors import UserError
from late_phase.support.files import write_text
from late_phase.support.timing import EPOCH, interval

HEAD = """\
# benchmarks: `make bench`

`make bench` measures a machine, and `make bench-gpu` its GPU. Each writes a record, `cpu.json` or `cuda.json`, and then this page.
Both sides of a ratio run in blocks, one right after the other, in alternating order. The ratio is the median over pairs of blocks,
with the 95 % interval of this median. It is our time divided by the reference's. If the bar is `>=`, or if ours is a rate, it is
the reference's time divided by ours. `in noise` means: a bar is met if one end of the interval reaches it."""

NONE = "There is no record yet: `make bench` makes one."

Record = Mapping[str, Any]


def read_records(folder: Path) -> dict[str, Record]:
    """Returns the records in a folder: name of the file without its ending -> record.

    Raises:
        UserError: a file is not a record.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            found[path.stem]["parts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a record of make bench ({error}): make it again, or delete it.") from error
    return found


def write_page(folder: Path) -> list[Path]:
    """Writes ``README.md`` and the figures of all records in ``folder``, and returns their paths."""
    records, page = read_records(folder), folder / "README.md"
    figures = [
        (part, record["sizes"]["batch"], figure_of(folder, name, part))
        for name, record in records.items()
        for part in plotted(record)
    ]
    drawn = [file for part, batch, path in figures for file in draw(part, batch, path)]
    write_text(page, as_markdown(records))
    return [page, *drawn]


def as_markdown(records: Mapping[str, Record]) -> str:
    texts = [said(name, record) for name, record in records.items()] or [NONE]
    return "\n\n".join([HEAD, *texts]) + "\n"


def said(name: str, record: Record) -> str:
    """Returns the section of a record."""
    hardware, sizes = record["hardware"], record["sizes"]
    machine = f"{hardware['processor']} ({hardware['instructions']}, cores {hardware['cores']}, threads {hardware['threads']})"
    where = machine if hardware["device"].startswith("cpu") else f"{hardware['device']}, {machine}"
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    texts = [
        f"## {name}: {where}",
        f"{record['date']}, commit `{record['git_commit']}`, {record['total_seconds'] / 60:.0f} minutes; {versions}. WRN "
        f"{sizes['depth']}-{sizes['width']}, minibatches of {sizes['batch']}, {hardware['system']}.",
    ]
    for part in record["parts"]:
        texts += [f"### {part['title']}", part["text"], table(part)]
        if part in plotted(record):
            texts.append(f"![{part['title']}]({figure_of(Path(), name, part).name}.svg)")
        texts += [text for m in part["measurements"] for text in more(m)]
    return "\n\n".join([*texts, "### Memory, and `step()` alone", memory(record)])


def table(part: Record) -> str:
    """Returns the table of a part."""
    rows = [["ratio", "bar", "median", "95 % interval", "", f"ours (s per {part['unit']})", "reference"]]
    if part["epochs"]:
        rows[0].append(f"{part['epochs']} epochs of ours (minutes)")
    for m in part["measurements"]:
        times = [f"{statistics.median(side):.4g}" for side in zip(*m["seconds"], strict=True)]
        cells = [f"`{m['name']}`", m["bar"], f"{m['median']:.3f}", shown(m["noise"], 3), m["verdict"], *times]
        rows.append([*cells, f"{part['epochs'] * float(times[0]) / 60:.1f}"] if part["epochs"] else cells)
    return markdown(rows)


def shown(ends: tuple[float, float], digits: int) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def more(m: Record) -> list[str]:
    """Returns what a measurement has beyond its ratio."""
    texts = []
    if "per_core" in m:
        rates = statistics.median(m["per_core"]), *interval(m["per_core"])
        shares = [100 * m["cores"] * rate / m["appetite"] for rate in rates]
        texts.append(
            f"`{m['name']}`: ours gives {rates[0]:.0f} images/s on a core ({shown(rates[1:], 0)}). {m['cores']} such cores feed "
            f"{shares[0]:.0f} % ({shown(shares[1:], 0)} %) of one H100, if it trains a ResNet-50 in bf16 with "
            f"{m['appetite']:,} images/s, which is the usual order of magnitude and not measured here."
        )
    for side, operations in m["profiles"].items():
        lines = "\n".join(operations)
        texts.append(f"`{m['name']}` misses its bar. The slowest operations, {side}:\n\n```text\n{lines}\n```")
    if "exchanged" in m:
        texts.append(f"`{m['name']}`: a process exchanges {m['exchanged']:.3f} of all gradients for a minibatch.")
    if "convolutions" in m:
        rows = [["inputs", "weight", "stride", "number", "10^9 operations each", "10^9 operations/s alone"]]
        for c in m["convolutions"]:
            sizes = (" × ".join(map(str, c[key])) for key in ("images", "weight"))
            rows.append([*sizes, str(c["stride"][0]), str(c["count"]), f"{c['gflop']:.2f}", f"{c['gflop_per_second']:.0f}"])
        texts += [f"The convolutions of `{m['name']}`, forward and backward:", markdown(rows)]
    return texts


def memory(record: Record) -> str:
    measured, less = record["memory"]["bytes"], record["memory"]["late_bytes_over_base_less_theta_gradient"]
    base, late, gradient = (f"{measured[key] / 1e6:.1f}" for key in ("base", "late", "theta_gradient"))
    step = ", ".join(f"{name} {time:.0f}" for name, time in record["step"].items())
    return (
        f"Late-phase training raises the peak memory from {base} to {late} MB. The sum of θ's gradients takes {gradient} MB of "
        f"this, as Algorithm 1 keeps it through all inner steps. The rest is {less:.2f} times the memory of the members and their "
        f"optimizer states. One call of `step()` takes on average, in microseconds: {step}."
    )


def plotted(record: Record) -> list[Record]:
    """Returns the parts with several numbers to plot against."""
    return [part for part in record["parts"] if len({m["x"] for m in part["measurements"] if "x" in m}) > 1]


def figure_of(folder: Path, name: str, part: Record) -> Path:
    return folder / f"{name}-{part['title'].lower().replace(' ', '-')}"


def bars(axes: Axes, number: int, label: str, values: Mapping[float, list[float]]) -> None:
    """Draws the medians of values by their x, with the intervals of the medians."""
    medians = {x: statistics.median(own) for x, own in values.items()}
    ends = [interval(own) for own in values.values()]
    lengths = [[abs(median - end[i]) for median, end in zip(medians.values(), ends, strict=True)] for i in (0, 1)]
    style = {"color": f"C{number}", "marker": "o", "markersize": 4, "capsize": 3}
    axes.errorbar(list(medians), list(medians.values()), lengths, label=label, **style)


def draw(part: Record, batch: int, path: Path) -> list[Path]:
    """Draws times and ratios of a part against its ``x``, with their 95 % intervals, and returns the files.

    Args:
        batch: images in a minibatch. The unit of the part is an epoch of images.
    """
    measured = sorted((m for m in part["measurements"] if "x" in m), key=lambda m: m["x"])
    figure = Figure(figsize=(11, 4), layout="constrained")
    times, ratios = figure.subplots(1, 2)
    for number, side in enumerate(("ours", "reference")):
        bars(times, number, side, {m["x"]: [1000 * batch / EPOCH * pair[number] for pair in m["seconds"]] for m in measured})
    times.set_ylabel(f"milliseconds per minibatch of {batch}")
    bars(ratios, 2, "ours / reference", {m["x"]: m["ratios"] for m in measured})
    ratios.axhline(1, color="black", linewidth=1)
    ratios.set_ylabel("ratio")
    for axes in (times, ratios):
        axes.set_xlabel(part["axis"])
        axes.set_xscale("log")
        axes.set_xticks([m["x"] for m in measured], [str(m["x"]) for m in measured])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    return save(figure, path)
