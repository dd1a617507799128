"""Evaluates a finished run again, or several as a deep ensemble.

``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT/seed=0 [dataset=NAME ...]``
``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT [seeds=[0,1,2]] [dataset=NAME ...]``
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from late_phase.training.command_line import as_dataclass, errors_in_one_sentence, quote_paths
from late_phase.training.config import EvaluateConfig
from late_phase.training.evaluate import evaluate_again, evaluate_together
from late_phase.training.progress import report
from late_phase.training.settings import choose_device, torch_settings


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
def main(composed: DictConfig) -> None:
    with errors_in_one_sentence():
        config: EvaluateConfig = as_dataclass(composed)
        device, run = choose_device(config.runtime.device), Path(config.run)
        with torch_settings(device, config.runtime.threads, seed=0):
            if config.seeds is None and not any(run.glob("seed=*")):
                record = evaluate_again(run, config.dataset, device)
            else:
                record = evaluate_together(run, config.seeds, config.dataset, device)
                run /= f"seeds={','.join(map(str, record['seed']))}"
        report(record, run / "evaluation" / record["dataset"])


if __name__ == "__main__":
    sys.argv[1:] = quote_paths(sys.argv[1:])
    with errors_in_one_sentence():
        main()
