"""Makes the page of all results, ``README.md`` and ``index.html`` in their folder: ``python scripts/page.py``, or ``make page``."""

from pathlib import Path

from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "--results",
        type=path_argument,
        default=ROOT / "results",
        metavar="FOLDER",
        help="with tables/ and figures/ (default: results)",
    )
    arguments = parser.parse_args()
    # These take seconds to import, and --help doesn't need them.
    from late_phase.reporting.page import read_page
    from late_phase.reporting.page_html import as_html
    from late_phase.reporting.page_markdown import as_markdown
    from late_phase.support.files import write_text

    page = read_page(arguments.results, ROOT)
    for name, text in {"README.md": as_markdown(page), "index.html": as_html(page)}.items():
        write_text(arguments.results / name, text)
        print(arguments.results / name)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
