"""Processes, devices and the few collective operations that the trainers need."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from safe_rlhf_panacea.errors import SharedError, one_line
from safe_rlhf_panacea.printing import name_cpu_accelerator

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LETTING_GO = 0.2  # seconds for the threads of a group that is closed, on a busy machine


@contextmanager
def _rendezvous() -> Iterator[None]:
    """One process on loopback, where no launcher has said who this process is.

    DeepSpeed would look for MPI. The port is taken out of the environment again: a process started
    from this one must not meet there.
    """
    if "MASTER_PORT" in os.environ or os.environ.get("WORLD_SIZE", "1") != "1":
        yield
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    try:
        yield
    finally:
        del os.environ["MASTER_PORT"]


def init_distributed(local_rank: int = -1) -> torch.device:
    """Start the process group once and return this process's device.

    Works under the deepspeed launcher, under torchrun, and with no launcher at all.
    """
    local_rank = local_rank if local_rank >= 0 else int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        name_cpu_accelerator()
        import deepspeed

        if device.type == "cpu":
            # Or it compiles its shared-memory collective, which takes most of a minute and a
            # compiler; gloo does the same work.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend = "nccl" if device.type == "cuda" else "gloo"
        with _rendezvous():
            deepspeed.init_distributed(dist_backend=backend, verbose=False)
        leave_at_exit()
    return device


def own_device() -> torch.device:
    """The device of this process: its GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def leave_at_exit() -> None:
    """Close gloo's process group before Python ends, not while it does.

    gloo's threads may still let go of tensors then. One that asks for the interpreter's lock when
    the interpreter is gone is killed, and the process with it: exit code -6 in 3 of 100 tries.
    Where a DeepSpeed engine holds the group its threads outlive the closing, so they are given time
    to let go of what they hold. NCCL's group is left alone: closing it waits for processes that may
    have ended already.
    """

    def leave() -> None:
        if dist.is_initialized() and dist.get_backend() == "gloo":
            dist.destroy_process_group()
            time.sleep(LETTING_GO)  # without the interpreter's lock, which they need for a moment

    atexit.register(leave)


def init_if_launched() -> None:
    """Start the process group where a launcher has started several processes."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        init_distributed()


def get_rank() -> int:
    """The rank of this process, 0 when there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def get_world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes files and prints."""
    return get_rank() == 0


def barrier() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        dist.barrier()


def all_reduce_means(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """The mean of every tensor over all elements of all processes, in one collective.

    The tensors have any shape, and none of their elements where this process has nothing to say;
    names of which no process has anything are left out.
    """
    sums = torch.stack([value.detach().float().sum() for value in values.values()])
    counts = sums.new_tensor([value.numel() for value in values.values()])
    sums, counts = all_reduce_sum(torch.stack([sums, counts]))
    means = zip(values, (sums / counts).tolist(), counts.tolist(), strict=True)
    return {name: mean for name, mean, count in means if count}


def all_reduce_max(values: torch.Tensor) -> torch.Tensor:
    """The elementwise maximum over the processes."""
    if get_world_size() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """The elementwise sum over the processes."""
    if get_world_size() > 1:
        dist.all_reduce(values)
    return values


def all_gather_objects(value: Any) -> list[Any]:
    """What every process holds, by rank, on every process; small things only."""
    if get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * get_world_size()
    dist.all_gather_object(found, value)
    return found


@contextmanager
def refusing_together() -> Iterator[None]:
    """What one process refuses in this block all of them refuse, and nobody waits for it.

    Every process must come here, and none may stop between two collective operations of the
    block. When it is left, all have been through it. The first error that one of them can tell in
    one line is a ``SharedError`` on all.
    """
    refused: Exception | None = None
    try:
        yield
    except Exception as error:
        if get_world_size() == 1 or one_line(error) is None:
            raise
        refused = error
    lines = [line for line in all_gather_objects(refused and one_line(refused)) if line]
    if lines:
        raise SharedError(lines[0]) from refused


def unwrap(model: Any) -> PreTrainedModel:
    """The module inside an engine, or the module itself, which need be none of transformers."""
    return getattr(model, "module", model)


def is_sharded(model: nn.Module) -> bool:
    """Whether several processes hold a share of the weights each (ZeRO 3)."""
    return get_world_size() > 1 and is_under_zero3(model)


def is_under_zero3(model: nn.Module) -> bool:
    """Whether ZeRO 3 puts the weights together for every pass, of one process or of several."""
    return any(hasattr(p, "ds_id") for p in model.parameters())
