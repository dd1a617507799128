"""Writes a finished run's single model and its model card into a folder, as the Hugging Face Hub takes it.

``python scripts/export.py RUN --to FOLDER``; ``late_phase.load("FOLDER")`` loads the model. Nothing is uploaded.
"""

from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("run", type=path_argument, metavar="RUN", help="a run's directory, or a folder above one run")
    parser.add_argument("--to", type=path_argument, required=True, metavar="FOLDER", help="folder for the files")
    parser.add_argument("--program", type=int, metavar="PIXELS", help="also write model.pt2, for images with sides of PIXELS")
    arguments = parser.parse_args()
    if arguments.program is not None and arguments.program < 1:
        parser.error(f"--program {arguments.program} is not a number of pixels: choose at least 1")
    # Imported late: it takes seconds, and --help doesn't need it.
    from late_phase.export.folder import export

    for path in export(arguments.run, arguments.to, arguments.program):
        print(path)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
