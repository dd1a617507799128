"""Trains and evaluates one run: ``python train.py +experiment=cifar100_wrn_lpbn``. See the README for experiments and sweeps."""

import sys

import hydra
from omegaconf import DictConfig

from late_phase.training.command_line import errors_in_one_sentence, quote_paths, run_job
from late_phase.training.loop import run


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    run_job(config, run)


if __name__ == "__main__":
    sys.argv[1:] = quote_paths(sys.argv[1:])
    with errors_in_one_sentence():
        main()
