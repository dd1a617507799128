"""Measures what late-phase training costs, and what this project's way of training gains, on this machine (``make bench``).

Times are compared in pairs of blocks. The two blocks run one right after the other, in alternating order. A machine that slows down
then slows down both. All times are in seconds per 50,000 images, which is one epoch of CIFAR. Images and labels are random.
Keep the machine quiet: other programs on its cores add noise at best.
"""

from __future__ import annotations

import os

from late_phase.benchmark.report import benchmark
from late_phase.benchmark.workloads import Sizes
from late_phase.support.arguments import Parser, count
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.devices import choose_device, torch_settings
from late_phase.support.files import check_file, write_json
from late_phase.support.paths import path_argument


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--pairs", type=count, default=Sizes.pairs, metavar="N", help="pairs of blocks in each measurement (default: %(default)s)"
    )
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="also write all numbers to FILE")
    arguments = parser.parse_args()
    if arguments.json:
        check_file("--json", str(arguments.json), arguments.json)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler complains about a missing GPU
    device = choose_device("auto")
    with torch_settings(device, None, seed=0):
        record = benchmark(Sizes(pairs=arguments.pairs), device)
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
