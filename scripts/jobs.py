"""Scripts of this repository as jobs, several at a time."""

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from late_phase.support.devices import cores

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str) -> None:
    """Runs a script on one thread; its output is shown only if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        sys.exit(f"$ python {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    print(f"done: python {' '.join(arguments)}", flush=True)


def in_parallel(jobs: Iterable[tuple[str, ...]]) -> None:
    """Runs scripts with their arguments, on each core that this process may use one at a time, in their order."""
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda job: python(*job), jobs))
