"""Prints a table of all finished runs below some folders, and draws their curves with ``--to``.

``python scripts/report.py outputs/EXPERIMENT ... [--to FOLDER]``
"""

from pathlib import Path

from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument


def report(folders: list[Path], to: Path | None, keep: bool = False) -> None:
    """Prints the table.

    Args:
        to: the folder for ``table.md`` and the curves.
        keep: whether to copy the runs' numbers there, too.
    """
    # Imported late: they take seconds, and --help doesn't need them.
    from late_phase.reporting.curves import plot_curves
    from late_phase.reporting.runs import copy_runs, find_runs, table
    from late_phase.support.files import make_folder, write_text

    runs = find_runs(folders)
    if to is not None:
        make_folder("--to", to)
    print(table(runs))
    if to is not None:
        write_text(to / "table.md", table(runs) + "\n")
        plot_curves(runs, to)
        if keep:
            copy_runs(runs, to)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", type=path_argument, metavar="FOLDER", help="a run's directory, or a folder above it")
    parser.add_argument("--to", type=path_argument, metavar="FOLDER", help="folder for table.md and accuracy.png (texts: bpc.png)")
    parser.add_argument("--keep", action="store_true", help="also copy config, history and metrics of each run to --to")
    arguments = parser.parse_args()
    if arguments.keep and arguments.to is None:
        parser.error("--keep needs --to")
    report(arguments.folders, arguments.to, arguments.keep)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
