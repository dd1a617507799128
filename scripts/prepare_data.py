"""Makes a dataset ready and says what it contains: ``python scripts/prepare_data.py NAME [--root FOLDER]``, or ``make data-NAME``.

It downloads, verifies and extracts what is missing. Archives and extracted files that are already in the folder are used.
"""

from __future__ import annotations

from late_phase.command_line.plugins import load_plugins
from late_phase.support.arguments import Parser, one_of
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument


def main() -> None:
    load_plugins()
    from late_phase.data.prepare import PREPARED, prepare  # imported after the plug-ins have registered their datasets

    parser = Parser(__doc__)
    parser.add_argument("name", type=one_of(PREPARED), metavar="NAME", help=", ".join(PREPARED))
    parser.add_argument("--root", type=path_argument, default="data", metavar="FOLDER", help="folder of the files (default: data)")
    arguments = parser.parse_args()
    print(prepare(arguments.name, str(arguments.root)))


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
