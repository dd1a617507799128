"""Evaluates a finished run, several as a deep ensemble, or given weights, by the suites that the README lists.

``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT/seed=0 [suite=NAME] [dataset=NAME]``
``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT [seeds=[0,1,2]] [suite=NAME] [dataset=NAME]``
``python scripts/evaluate.py architecture=NAME architecture.weights=FILE dataset=NAME to=FOLDER [suite=NAME]``
"""

import hydra
from omegaconf import DictConfig

from late_phase.training.checks import check_evaluation
from late_phase.training.command_line import as_dataclass, job, start
from late_phase.training.config import EvaluateConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
def main(composed: DictConfig) -> None:
    with job():
        evaluate(check_evaluation(as_dataclass(composed)))


def evaluate(config: EvaluateConfig) -> None:
    # These take seconds to import, and the config is checked by now.
    from late_phase.reporting.suites import suite_table
    from late_phase.training.evaluate import evaluate_suites
    from late_phase.training.settings import choose_device, torch_settings

    device = choose_device(config.runtime.device)
    with torch_settings(device, config.runtime.threads, seed=0):
        for record in evaluate_suites(config, device):
            print(suite_table(record), flush=True)


if __name__ == "__main__":
    start(main, EvaluateConfig)
