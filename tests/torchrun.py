"""Two real processes, and what they leave."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def results(script: Path, folder: Path) -> dict[str, Any]:
    """What a script, run by two processes with a folder as its argument, writes to `results.pt` in it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(script), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(folder / "results.pt", weights_only=False)
