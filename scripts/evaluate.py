"""Evaluates a finished run, several as a deep ensemble, or given weights, by the suites that the README lists.

``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT/seed=0 [suite=NAME] [dataset=NAME]``
``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT [seeds=[0,1,2]] [suite=NAME] [dataset=NAME]``
``python scripts/evaluate.py architecture=NAME architecture.weights=FILE dataset=NAME to=FOLDER [suite=NAME]``
"""

import sys

import hydra
from omegaconf import DictConfig

from late_phase.reporting.suites import suite_table
from late_phase.training.command_line import as_dataclass, errors_in_one_sentence, quote_paths
from late_phase.training.config import EvaluateConfig
from late_phase.training.evaluate import evaluate_suites
from late_phase.training.settings import choose_device, torch_settings


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
def main(composed: DictConfig) -> None:
    with errors_in_one_sentence():
        config: EvaluateConfig = as_dataclass(composed)
        device = choose_device(config.runtime.device)
        with torch_settings(device, config.runtime.threads, seed=0):
            for record in evaluate_suites(config, device):
                print(suite_table(record), flush=True)


if __name__ == "__main__":
    sys.argv[1:] = quote_paths(sys.argv[1:])
    with errors_in_one_sentence():
        main()
