"""A joint run of several processes on CPUs, the last of which loses a file, for tests."""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import PartialState

from tests.training.joint_runs import run, trainer

if __name__ == "__main__":
    process = PartialState(cpu=True)
    run(trainer(Path(sys.argv[1]), held_out=False, **({"loses": int(sys.argv[2])} if process.is_last_process else {})))
