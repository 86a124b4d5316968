"""Train one model in several processes: `rpg train --experiment NAME --processes 4` on one machine; on two nodes

    srun --nodes 2 torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m rpg train --experiment NAME

with the folder of params.yaml on a disk that all nodes share. Each process holds all weights (DDP), or a shard of them
(FSDP2). The written files hold all weights and do not depend on the number of processes.
"""

import logging
import os
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from rpg.utils.device import claim
from rpg.utils.errors import UserError

if TYPE_CHECKING:
    from rpg.model.rpg import RPG

# Other processes wait while the first one writes a state, or waits for another run that locks the folder.
PATIENCE = timedelta(hours=2)
# Seconds that torchrun needs to end the other processes after one has failed.
GRACE = 5
# Process groups that must not be destroyed before the process ends.
_KEPT: list[object] = []


@dataclass(frozen=True)
class ProcessGroup:
    """The number of processes of one training, and the rank of this process."""

    rank: int
    processes: int

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over all processes."""
        if self.processes > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes reach this call."""
        if self.processes > 1:
            distributed.barrier()

    def spread(self, model: "RPG", sharded: bool, on: torch.device) -> nn.Module:
        """Return a module that replaces `model` in calls and averages the gradients over the processes."""
        if self.processes == 1:
            return model
        if not sharded:
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=[on] if on.type == "cuda" else None,
                # BatchNorm's buffers are equal in all processes, because its batch spans all processes.
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(on.type, (self.processes,))
        for part in [*model.units(), model]:
            fully_shard(part, mesh=mesh)
        return model


ALONE = ProcessGroup(0, 1)


def launched() -> bool:
    """Return whether torchrun started this process."""
    return "RANK" in os.environ


def end_process() -> None:
    """End this process at once if torchrun started it: see `joined`."""
    if launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def report_first() -> None:
    """Wait unless this is the first process: the first prints the error, and torchrun ends the others."""
    if launched() and os.environ["RANK"] != "0":
        time.sleep(GRACE)


@contextmanager
def joined(on: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started; without torchrun, the group is this process alone."""
    if not launched():
        yield ALONE
        return
    if on.type == "cuda":
        distributed.init_process_group("nccl", timeout=PATIENCE, device_id=on)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    # A harmless warning of DistributedDataParallel about the gradient of a convolution with kernels one row high.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    except RuntimeError:
        # A lost connection means that another process failed. That process prints the cause; torchrun ends this one.
        time.sleep(GRACE)
        raise
    # Wait until the first process has written its files.
    distributed.barrier()
    # The destructor of gloo's group waits for its threads. A thread that drops a tensor waits for Python's lock, which
    # the destructor holds: one process in twelve hung so (torch 2.11.0). The group is kept, and `end_process` ends the
    # process without destructors.
    _KEPT.append(distributed.group.WORLD)
    distributed.destroy_process_group()


def whole(tensor: Tensor) -> dict[str, Tensor]:
    """Gather a tensor from its shards: part name → tensor, with two parts (codes and scale) for 8 bits."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    parts = {f".{part}": getattr(full, part) for part in ("codes", "scale")} if hasattr(full, "codes") else {"": full}
    # torch waits only for its own tensors, not for the parts of torchao's.
    return {part: values.wait() if hasattr(values, "wait") else values for part, values in parts.items()}


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, or the tensor if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def fill(tensor: Tensor, values: Tensor) -> None:
    """Copy the whole `values` into `tensor`, or the matching rows into this process's shard."""
    if mesh := getattr(tensor, "device_mesh", None):
        # FSDP splits rows as torch.chunk does.
        rows = -(-len(values) // mesh.size())
        first = min(mesh.get_local_rank() * rows, len(values))
        values = values[first : min(first + rows, len(values))]
    with torch.no_grad():
        local(tensor).copy_(values)


def launch(processes: int, arguments: list[str]) -> None:
    """Run `python -m rpg <arguments>` in `processes` processes of this machine, and exit with their exit code.

    Raises UserError if torchrun started this process, if there are too few GPUs, or if a signal ended a process.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if launched():
        raise UserError("--processes: torchrun has already started the processes; leave the option out")
    if gpus := torch.cuda.device_count():
        if gpus < processes:
            raise UserError(f"--processes {processes}: each process takes a GPU, and there are {gpus}; take fewer")
        claim(processes)
    # The failed process itself prints its error.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rpg", *arguments)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(f"process {rank} of {processes} was ended by signal {-failure.exitcode}") from None
        sys.exit(failure.exitcode)
