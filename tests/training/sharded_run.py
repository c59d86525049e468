"""``x2sam`` under FSDP2 on processors with gloo, for tests: accelerate itself shards on GPUs and their like alone."""

from __future__ import annotations

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from x2sam_ros.cli.main import main

if __name__ == "__main__":
    state = Accelerator(cpu=True).state  # all of a process share one
    state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    main()
