"""Makes Table 7, the specification of the hypernetworks of WRN 28-10, from the model itself: ``python scripts/table7.py``."""

from pathlib import Path

from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.paths import path_argument

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--to", type=path_argument, default=RESULTS, metavar="FOLDER", help="folder for tables/table7.md")
    arguments = parser.parse_args()

    # Imported late: they take seconds, and --help doesn't need them.
    import torch

    from late_phase.architectures import build
    from late_phase.layers.hypernetwork import generate_convolutions
    from late_phase.reporting.runs import markdown
    from late_phase.reporting.specification import generated_weights
    from late_phase.support.files import write_text

    with torch.device("meta"):  # shapes only
        model = build("wrn", 3, 100)
    generate_convolutions(model, torch.Generator())
    rows = generated_weights(model)
    page = f"# Table 7: the hypernetworks of WRN 28-10\n\n{markdown(rows)}\n"
    write_text(arguments.to / "tables" / "table7.md", page)
    print(f"{page}\nin {arguments.to / 'tables' / 'table7.md'}")


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
