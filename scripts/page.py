"""Makes the page of all results: ``README.md`` and ``index.html`` in the folder of results, and ``benchmarks/README.md``.

``make page`` runs it.
"""

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
        help="folder of results, which has tables/ and figures/ (default: results)",
    )
    arguments = parser.parse_args()
    # Imported late: they take seconds, and --help doesn't need them.
    from late_phase.benchmark.page import write_page
    from late_phase.reporting.documentation import documentation
    from late_phase.reporting.page import read_page
    from late_phase.reporting.page_html import as_html
    from late_phase.reporting.page_markdown import as_markdown
    from late_phase.support.files import write_text

    folder = arguments.results
    if (benchmarks := folder / "benchmarks").is_dir():
        for path in write_page(benchmarks):
            print(path)
    page = read_page(folder, ROOT)
    texts = {folder / "README.md": as_markdown(page), folder / "index.html": as_html(page)}
    if folder.resolve() == ROOT / "results":
        texts |= documentation(page, ROOT)
    for path, text in texts.items():
        write_text(path, text)
        print(path)


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
