"""Table 6: LSTM, with rank-1 weights, with late-phase rank-1 weights; bits per character, with and without SWA.

``python scripts/table6.py`` is the paper's, on enwik8: five seeds one after the other, for a GPU.
``python scripts/table6.py pydocs`` is the embedded one: three seeds, on each processor one at a time.
"""

import subprocess
import sys

from jobs import ROOT, in_parallel

from late_phase.reporting.runs import find_runs
from late_phase.reporting.table6 import ROWS, table6
from late_phase.support.arguments import Parser, one_of
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.files import write_text

SEEDS = {"enwik8": range(5), "pydocs": range(3)}


def train(text: str) -> None:
    names, seeds = [f"{text}_lstm_{row}" for row in ROWS], ",".join(map(str, SEEDS[text]))
    if text == "enwik8":
        sweep = ["train.py", "-m", f"+experiment={','.join(names)}", f"seed={seeds}"]
        if status := subprocess.run([sys.executable, *sweep], cwd=ROOT, check=False).returncode:
            sys.exit(status)
    else:
        # The longest first, so that no processor waits for them at the end.
        jobs = [(f"+experiment={name}", f"seed={seed}") for name in reversed(names) for seed in SEEDS[text]]
        in_parallel([("train.py", *job, "runtime.threads=1", "runtime.progress=false") for job in jobs])


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("text", nargs="?", type=one_of(SEEDS), default="enwik8", metavar="TEXT", help=", ".join(SEEDS))
    text = parser.parse_args().text
    train(text)
    table = table6(find_runs([ROOT / "outputs" / f"{text}_lstm_{row}" / "default" for row in ROWS]))
    to = ROOT / "outputs" / "table6" / f"{text}.md"
    write_text(to, table + "\n")
    print(f"\n{table}\n\nbits per character on {text}, mean ± standard deviation over n seeds; in {to.relative_to(ROOT)}")


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
