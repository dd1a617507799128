"""Makes tables and figures of the paper: trains and evaluates what is missing, then writes the paper's numbers beside ours.

``python scripts/table.py table3`` makes Table 3, and with ``--dry`` only says what it would run. ``configs/table`` has all of them.
"""

import sys
from argparse import Namespace
from pathlib import Path

from late_phase.support.arguments import Parser
from late_phase.support.children import run_script
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "configs" / "table"
RESULTS = ROOT / "results"

WHAT = {"images": "a folder of images", "text": "a text", "tables": "a table of data"}
"""What --data can be, by the kind of task that it is for."""
WHERE = {"images": ("image_folder", "root"), "text": ("text_file", "path"), "tables": ("table_file", "path")}
"""The dataset that reads it, and the dataset's key for its place."""


def main() -> None:
    parser = Parser(__doc__)
    known = sorted(path.stem for path in TABLES.glob("*.yaml"))
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(known))
    parser.add_argument("--dry", action="store_true", help="train and evaluate nothing, only list which runs are done or missing")
    parser.add_argument("--build", action="store_true", help="train and evaluate nothing, make the tables from finished runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="N", help="seeds to use instead of the table's")
    parser.add_argument("--scale", default="", metavar="NAME", help="a scale of configs/scale instead of the paper's")
    parser.add_argument(
        "--data",
        type=path_argument,
        nargs="+",
        default=[],
        metavar="PLACE",
        help="your images, PLACE/train/<class>/* and PLACE/test/<class>/*; your table, .csv, .tsv or .parquet; or your text",
    )
    parser.add_argument("--images", type=int, metavar="N", help="train on N images, chosen at random; 0 for all")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: an accelerator if there is one)")
    parser.add_argument(
        "--with", dest="extra", nargs="+", default=[], metavar="OVERRIDE", help="overrides of all runs: compute.precision=bf16, ..."
    )
    parser.add_argument(
        "--mixed", action="store_true", help="allow runs by different versions of the code in one table; the table notes it"
    )
    parser.add_argument("--launcher", default="basic", help="launcher of Hydra: basic, joblib, ... (default: basic)")
    parser.add_argument("--outputs", type=path_argument, default=ROOT / "outputs", metavar="FOLDER", help="folder of the runs")
    parser.add_argument("--to", type=path_argument, default=RESULTS, metavar="FOLDER", help="folder for tables/ and figures/")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"{unknown[0]} is not one of {', '.join(known)}")
    scales = sorted(path.stem for path in (ROOT / "configs" / "scale").glob("*.yaml"))
    if arguments.scale and arguments.scale not in scales:
        parser.error(f"--scale {arguments.scale} is not one of {', '.join(scales)}")
    if arguments.images is not None and arguments.images < 0:
        parser.error(f"--images {arguments.images} is negative: choose a number of at least 1, or 0 for all")
    if named := [override for override in arguments.extra if override.partition("=")[0] == "seed"]:
        parser.error(f"--with {named[0]} would give all runs the same seed: choose seeds with --seeds")
    make(arguments)


def kind_of(data: Path) -> str:
    """Returns the kind of task that a place with data is for. Runs say so if it doesn't exist."""
    if data.suffix.lower() in (".csv", ".tsv", ".parquet"):
        return "tables"
    return "text" if data.is_file() or (data.suffix and not data.is_dir()) else "images"


def make(arguments: Namespace) -> None:
    # Imported late: they take seconds, and --help doesn't need them.
    from late_phase.command_line.commands import evaluation, launched_by, training
    from late_phase.command_line.hydra_jobs import register_schemas
    from late_phase.command_line.overrides import literal
    from late_phase.command_line.plan import collected, refuse_mixture, refuse_stale, summary
    from late_phase.command_line.planner import Planner
    from late_phase.command_line.plugins import load_plugins
    from late_phase.reporting.claims import SAME
    from late_phase.reporting.table_config import read_table
    from late_phase.reporting.table_files import write
    from late_phase.support.errors import UserError

    load_plugins()
    register_schemas()
    places: dict[str, Path] = {}
    own: dict[str, list[str]] = {}
    for data in arguments.data:
        kind = kind_of(data)
        if kind in places:
            raise UserError(f"--data {places[kind]} and {data} are both {WHAT[kind]}: give one.")
        places[kind], data = data, data.absolute()  # scripts run in ROOT
        place = literal(str(data.relative_to(ROOT) if data.is_relative_to(ROOT) else data))
        # A sweep over experiments has the dataset of none of them.
        dataset, key = WHERE[kind]
        own[kind] = [f"dataset={dataset}", f"dataset.{key}={place}"]
    if arguments.images is not None:
        own.setdefault("images", []).append(f"dataset.subset={arguments.images or 'null'}")
    device = [] if arguments.device is None else [f"runtime.device={literal(arguments.device)}"]
    how = launched_by(arguments.launcher, [override for override in arguments.extra if override.startswith("hydra.")])
    extra = [*device, *(override for override in arguments.extra if not override.startswith("hydra."))]
    outputs = arguments.outputs.resolve()
    planner = Planner(ROOT / "configs", outputs, arguments.scale, extra, own, arguments.seeds)
    tables = {name: read_table(TABLES / f"{name}.yaml") for name in arguments.names}
    for name, table in tables.items():
        if not table.files.keys() <= places.keys():
            files = list(table.files.values())
            raise UserError(
                f"{name} needs your own {' and '.join(files)}: give --data {' '.join(files)}, or DATA={','.join(files)} for make."
            )
    kinds = {kind for table in tables.values() for kind in planner.kinds(table)} if places else set()
    if unused := [f"--data {data} is {WHAT[kind]}" for kind, data in places.items() if kind not in kinds]:
        raise UserError(f"{unused[0]}, but {', '.join(tables)} can't use it: leave it out, or name other tables.")
    plans = dict(zip(tables, planner.plan(list(tables.values())), strict=True))
    changes = dict.fromkeys(own for table in tables.values() for own in planner.changes(table) if not own.startswith(SAME))
    if changes and arguments.to.resolve() == RESULTS:
        raise UserError(
            f"{' '.join(changes)} makes runs that don't belong in results/: choose another folder for the tables with --to FOLDER."
        )
    for name, planned in plans.items():  # all plans are checked before any training starts
        print(f"{tables[name].place}, {tables[name].title}\n{summary(planned)}", flush=True)
        if not arguments.mixed:
            refuse_mixture(planned, training=not arguments.build)
        if not (arguments.dry or arguments.build):
            refuse_stale(planned)
    if arguments.dry:
        return
    failed, needed, unfinished = False, 0, 0
    for name, table in tables.items():
        planned, scale = plans[name].now(), table.scale(arguments.scale)
        if not arguments.build:
            for command in training(planned, how, outputs):
                failed |= run_script(command, ROOT) != 0
            for command in evaluation(table, planned.now(), how, device):
                failed |= run_script(command, ROOT) != 0
            planned = planned.now()
            needed += len(planned.jobs)
            unfinished += sum(state != "done" for state in planned.jobs.values())
        files = write(table, collected(table, planned, scale), name, arguments.to, scale, planner.changes(table))
        print(f"\n{files[0].read_text(encoding='utf-8')}\nin {', '.join(map(str, files))}", flush=True)
    if failed or unfinished:
        lacking = f"{unfinished} of {needed} runs are not finished" if unfinished else "some evaluations failed"
        sys.exit(f"error: {lacking}, and the tables say which: run the same command again.")


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
