"""Every method on the embedded digits, three seeds each, and deep ensembles of base and late-phase runs: a table of them."""

from jobs import ROOT, in_parallel, python

from late_phase.reporting.runs import find_runs, table
from late_phase.support.arguments import Parser
from late_phase.support.console import errors_in_one_sentence
from late_phase.support.files import write_text

# The longest first, so that no processor waits for it at the end.
METHODS = (
    *("batchensemble", "swag", "lpbn_swa", "base_swa", "dropout", "base", "lpbn"),
    *("lprank1", "lphnet", "lphead", "lpfull", "lpbn_frozen", "accumulation"),
)
ENSEMBLES = ("base", "lpbn")
ONE_THREAD = ["runtime.threads=1", "runtime.progress=false", "runtime.evaluate_every=5", "runtime.checkpoint_every=10"]


def main() -> None:
    Parser(__doc__).parse_args()
    jobs = [("train.py", "-m", f"+experiment=digits_lenet_{method}", "seed=0,1,2", *ONE_THREAD) for method in METHODS]
    in_parallel(jobs)
    folders = [ROOT / "outputs" / f"digits_lenet_{method}" / "default" for method in METHODS]
    for method in ENSEMBLES:
        python("scripts/evaluate.py", f"run=outputs/digits_lenet_{method}/default", "seeds=[0,1,2]", "runtime.threads=1")
    rows = table(find_runs(folders))
    write_text(ROOT / "outputs" / "methods" / "table.md", rows + "\n")
    print(f"\n{rows}\n\nmean ± standard deviation over n seeds; in outputs/methods/table.md")


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
