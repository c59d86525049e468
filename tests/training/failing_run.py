"""A joint run of several processes on CPUs, the last of which loses a file, for tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState

from tests.training.joint_runs import run, trainer

HELD_OUT = "held-out"

if __name__ == "__main__":
    folder, lost = Path(sys.argv[1]), sys.argv[2]
    fault: dict[str, Any] = {"unseen_is_gone": True} if lost == HELD_OUT else {"loses": int(lost)}
    run(trainer(folder, held_out=lost == HELD_OUT, **(fault if PartialState(cpu=True).is_last_process else {})))
