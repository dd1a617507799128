"""Downloads, verifies and extracts a dataset, or says what is there: ``python scripts/prepare_data.py NAME [--root FOLDER]``.

``make data-NAME`` is the same. Files that are in the folder already, whole archives or extracted ones, are taken as they are.
"""

from __future__ import annotations

from late_phase.command_line.plugins import load_plugins
from late_phase.support.arguments import Parser, one_of
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument


def main() -> None:
    load_plugins()
    from late_phase.data.prepare import PREPARED, prepare  # plug-ins have registered theirs by now

    parser = Parser(__doc__)
    parser.add_argument("name", type=one_of(PREPARED), metavar="NAME", help=", ".join(PREPARED))
    parser.add_argument("--root", type=path_argument, default="data", metavar="FOLDER", help="where the files are (default: data)")
    arguments = parser.parse_args()
    print(prepare(arguments.name, str(arguments.root)))


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
