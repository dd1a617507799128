"""Measures what late-phase training costs, and what this project's way of training gains, on this machine (``make bench``).

Times are compared in pairs of blocks. The two blocks run one right after the other, in alternating order. A machine that slows down
then slows down both. Images and labels are random. The record goes to a folder, whose page then shows it. Keep the machine quiet:
other programs on its cores add noise at best.
"""

from __future__ import annotations

import os
from pathlib import Path

from late_phase.support.arguments import Parser, count, one_of
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.files import check_file
from late_phase.support.paths import path_argument

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--pairs", type=count, default=6, metavar="N", help="pairs of blocks in each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--device",
        type=one_of(("cpu", "cuda")),
        default="cpu",
        metavar="NAME",
        help="cpu, with a small WRN, or cuda, with the paper's (default: %(default)s)",
    )
    parser.add_argument(
        "--to",
        type=path_argument,
        default=ROOT / "results" / "benchmarks",
        metavar="FOLDER",
        help="folder for the record NAME.json, README.md and figures (default: results/benchmarks)",
    )
    arguments = parser.parse_args()
    record = arguments.to / f"{arguments.device}.json"
    check_file("--to", str(arguments.to), record)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler complains about a missing GPU
    # Imported late: they take seconds, and a wrong command line is told before.
    import torch

    from late_phase.benchmark import report
    from late_phase.benchmark.page import write_page
    from late_phase.benchmark.workloads import Sizes
    from late_phase.support.devices import torch_settings
    from late_phase.support.files import write_json

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    device = torch.device(arguments.device)
    with torch_settings(device, None, seed=0):
        write_json(record, report.benchmark(Sizes.on(device, arguments.pairs), device))
    for path in write_page(arguments.to):
        print(path)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
