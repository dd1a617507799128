"""The config in a run's directory, as later versions of the code read it."""

from __future__ import annotations

import pytest
from conftest import ROOT

from late_phase.runs.config_file import from_yaml

# One run of each experiment: the runs of an experiment have the same keys.
KEPT = {path.parents[2]: path for path in sorted((ROOT / "results").glob("*/*/*/seed=*/config.yaml"))}


@pytest.mark.parametrize("path", KEPT.values(), ids=lambda path: "-".join(path.parts[-5:-3]))
def test_the_configs_of_kept_runs_can_still_be_read(path):
    """Whoever renames a key makes all finished runs unreadable."""
    config = from_yaml(path)
    assert config.seed == int(path.parent.name.partition("=")[2])
