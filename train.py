"""Trains and evaluates one run: ``python train.py +experiment=cifar100_wrn_lpbn``. See the README for experiments and sweeps."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from late_phase.command_line.hydra_jobs import run_job, start
from late_phase.command_line.sweeps import with_summary
from late_phase.config.training import TrainConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    run_job(config, train)


def train(config: TrainConfig, directory: Path) -> None:
    from late_phase.training.loop import run  # imported late: it takes seconds, and a wrong config is refused before

    run(config, directory)


if __name__ == "__main__":
    start(with_summary(main), TrainConfig)
