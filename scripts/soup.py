"""Averages the single models of finished runs that began from the same weights, as a uniform or a greedy soup.

``python scripts/soup.py RUN RUN ... --to FOLDER [--greedy]``; ``scripts/evaluate.py run=FOLDER`` evaluates the soup.
"""

from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=path_argument, metavar="RUN", help="a run's directory, or a folder above some runs")
    parser.add_argument("--to", type=path_argument, required=True, metavar="FOLDER", help="folder for the soup")
    parser.add_argument("--greedy", action="store_true", help="only take runs that make it better on validation data")
    arguments = parser.parse_args()
    # Imported late: they take seconds, and --help doesn't need them.
    from late_phase.command_line.plugins import load_plugins
    from late_phase.export.soup import soup
    from late_phase.support.devices import choose_device, torch_settings
    from late_phase.training.progress import report

    load_plugins()
    device = choose_device("auto")
    with torch_settings(device, None, seed=0):
        record, in_words = soup(arguments.runs, arguments.to, arguments.greedy, device)
    for run in record["soup"]["runs"]:
        print(f"in the soup: {run}")
    report(record, arguments.to, in_words)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
