"""Makes tables of the paper: trains and evaluates what is missing, then writes the paper's numbers beside ours.

``python scripts/table.py table3`` makes Table 3; ``--dry`` says what it would run. ``configs/table`` has all tables.
"""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "configs" / "table"


def main() -> None:
    parser = Parser(__doc__)
    known = sorted(path.stem for path in TABLES.glob("*.yaml"))
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(known))
    parser.add_argument("--dry", action="store_true", help="train and evaluate nothing: say what is there and what is missing")
    parser.add_argument("--build", action="store_true", help="train and evaluate nothing: make the tables of what is there")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="instead of those of the table")
    parser.add_argument("--scale", metavar="NAME", help="instead of the paper's: one of configs/scale")
    parser.add_argument(
        "--with", dest="extra", nargs="+", default=[], metavar="OVERRIDE", help="for all runs, such as another dataset"
    )
    parser.add_argument("--launcher", default="basic", help="Hydra's: basic, joblib, ... (default: basic)")
    parser.add_argument("--outputs", type=path_argument, default=ROOT / "outputs", metavar="FOLDER", help="where the runs are")
    parser.add_argument("--to", type=path_argument, default=ROOT / "results" / "tables", metavar="FOLDER", help="for the tables")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"{unknown[0]} is no table of {', '.join(known)}")
    scales = sorted(path.stem for path in (ROOT / "configs" / "scale").glob("*.yaml"))
    if arguments.scale not in (None, *scales):
        parser.error(f"--scale {arguments.scale} is none of {', '.join(scales)}")
    make(arguments)


def make(arguments: Namespace) -> None:
    # These take seconds to import, and --help doesn't need them.
    from late_phase.command_line.hydra_jobs import register_schemas
    from late_phase.command_line.plan import changes, collected, evaluation, plan, summary, training
    from late_phase.command_line.plugins import load_plugins
    from late_phase.reporting.table_config import read_table
    from late_phase.reporting.tables import as_csv, as_latex, as_markdown
    from late_phase.support.files import write_text

    load_plugins()
    register_schemas()
    failed = False
    for name in arguments.names:
        table = read_table(TABLES / f"{name}.yaml")
        scale = [f"+scale={table.scales.get(arguments.scale, arguments.scale)}"] if arguments.scale else []
        outputs = arguments.outputs.resolve()  # scripts run elsewhere
        extra = [*scale, *arguments.extra]
        planned = plan(table, extra, arguments.seeds, ROOT / "configs", outputs)
        print(f"{table.place}, {table.title}\n{summary(planned)}", flush=True)
        if arguments.dry:
            continue
        if not arguments.build:
            for command in training(planned, arguments.launcher, outputs):
                failed |= run(command)
            for command in evaluation(table, planned.now(), arguments.launcher):
                failed |= run(command)
        results = collected(table, planned.now())
        to = arguments.to / arguments.scale if arguments.scale else arguments.to
        page = as_markdown(table, results, changes(extra))
        for suffix, text in (("md", page), ("csv", as_csv(table, results)), ("tex", as_latex(table, results))):
            write_text(to / f"{name}.{suffix}", text)
        print(f"\n{page}\nin {to}/{name}.md, .csv and .tex", flush=True)
    if failed:
        sys.exit("error: not all runs ended well; what they said is above, and the tables lack them.")


def run(command: list[str]) -> bool:
    """Runs a script of this repository, and says whether it failed."""
    print(f"$ python {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode != 0


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
