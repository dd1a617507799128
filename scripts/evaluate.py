"""Evaluates a finished run, several runs as a deep ensemble, or weights of any origin, by the suites that docs/evaluation.md lists.

``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT/seed=0 [suite=NAME] [dataset=NAME]``
``python scripts/evaluate.py run=outputs/EXPERIMENT/VARIANT [seeds=[0,1,2]] [suite=NAME] [dataset=NAME]``
``python scripts/evaluate.py architecture=NAME architecture.weights=FILE dataset=NAME to=FOLDER [suite=NAME]``
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from late_phase.command_line.hydra_jobs import as_dataclass, job, start
from late_phase.methods import deep_ensemble
from late_phase.runs.errors import error_of
from late_phase.suites.config import EvaluateConfig, check


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
def main(composed: DictConfig) -> None:
    with job(error_file(composed)):
        run(check(as_dataclass(composed)))


def error_file(composed: DictConfig) -> Path | None:
    """Returns the file for a job's error, beside the results; None if the job names no run that exists."""
    if composed.run is None or not Path(composed.run).is_dir():
        return None
    run = Path(composed.run)
    folder = run if composed.seeds is None else deep_ensemble.folder(run, sorted(set(composed.seeds)))
    return folder / "evaluation" / error_of(composed.suite)


def run(config: EvaluateConfig) -> None:
    # Imported late: they take seconds, and a wrong config is refused before.
    from late_phase.reporting.suite_tables import suite_table
    from late_phase.suites.evaluate import evaluate
    from late_phase.support.devices import choose_device, torch_settings

    device = choose_device(config.runtime.device)
    with torch_settings(device, config.runtime.threads, seed=0):
        for record in evaluate(config, device):
            print(suite_table(record), flush=True)


if __name__ == "__main__":
    start(main, EvaluateConfig)
