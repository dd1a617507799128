"""Shows the method in two minutes on any machine: plain and late-phase training on handwritten digits, three seeds each."""

import sys
from pathlib import Path

from report import report

from late_phase.support.arguments import Parser
from late_phase.support.children import run_script
from late_phase.support.console import errors_in_one_sentence

EXPERIMENTS = ("digits_lenet_base", "digits_lenet_lpbn")
SWEEP = ["train.py", "-m", f"+experiment={','.join(EXPERIMENTS)}", "seed=0,1,2", "~hydra.callbacks.summary"]


def main() -> None:
    Parser(__doc__).parse_args()
    root = Path(__file__).resolve().parent.parent
    if status := run_script(SWEEP, root):
        sys.exit(status)
    to = root / "outputs" / "demo"
    print()
    report([root / "outputs" / name / "default" for name in EXPERIMENTS], to)
    print(f"""
mean ± standard deviation over n seeds; single: the averaged model, ensemble: the mean of the K members' predictions
table and curves:   {to.relative_to(root)}/
models and numbers: outputs/<experiment>/default/seed=<n>/
your own images:    python train.py +experiment=cifar10_lenet_lpbn dataset=image_folder dataset.root=FOLDER
the paper's model:  python train.py +experiment=cifar100_wrn_lpbn   (CIFAR-100, WRN 28-10; needs a GPU)""")


if __name__ == "__main__":
    with errors_in_one_sentence():
        main()
