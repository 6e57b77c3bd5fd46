"""Training in several processes at once: who each is, what they agree on, which device each has.

`torchrun --nproc-per-node N -m retinanet train ...` starts N processes that PyTorch's
`DistributedDataParallel` keeps equal. A global batch is shared out so that its loss, and so every
step, is what one process would have made of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from retinanet.devices import pick_device
from retinanet.train_config import TrainingError

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""How long one process waits for another, which may be writing a checkpoint or drawing."""


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them.

    Args:
        rank: of this process, from 0; rank 0 alone writes files.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """The part of a list that is for this process: every `size`-th; together they are all."""
        return list(items[self.rank :: self.size])

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over the processes, the same in each."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def maximum(self, values: Sequence[float]) -> list[float]:
        """The largest over the processes, the same in each."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process, the same in each; all wait for the last to ask."""
        return self.maximum([float(flag)])[0] > 0

    def gather(self, items: list[T]) -> list[T]:
        """In rank 0 the parts of all in the order that `share` gave them out; else nothing."""
        if self.size == 1:
            return items
        parts: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(items, parts)
        if parts is None:
            return []
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)  # on the CPU: gloo's, on every device
        dist.all_reduce(tensor, operation)
        return tensor.tolist()


ALONE = World()


def current_world() -> World:
    """The processes that have joined; one alone where there is no process group."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextmanager
def joined(device: str = "auto") -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started, for as long as the context lasts.

    Args:
        device: as in `pick_device`; of several processes on CUDA each takes the GPU of its
            LOCAL_RANK.

    Yields:
        The processes and this one's device. Without torchrun: one process, and the device.

    Raises:
        DeviceError: there is no such device.
        TrainingError: the device cannot be shared by several processes, or torchrun would restart
            them in a way that hangs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, pick_device(device)
        return
    _check_restarts()
    own = _own_device(device, int(os.environ["LOCAL_RANK"]))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    yield current_world(), own
    # Not after an error: the others may be waiting for this process, and torchrun ends them.
    dist.destroy_process_group()


def _check_restarts() -> None:
    """Refuse restarts by an agent whose store keeps the addresses of the processes before.

    The new ones may read them and wait for the dead: pytorch/pytorch issue 135712.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise TrainingError(
            "Processes that torchrun restarts may wait for those before them; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or leave --max-restarts at 0."
        )


def _own_device(device: str, local_rank: int) -> torch.device:
    chosen = pick_device(device)
    if chosen.type == "mps" or chosen.index is not None:
        raise TrainingError(
            f"Several processes cannot share the device {chosen}; use --device auto, cuda or cpu."
        )
    return pick_device(f"cuda:{local_rank}") if chosen.type == "cuda" else chosen


def check_batch(batch_size: int, world: World) -> None:
    """Refuse a global batch that cannot be shared out evenly.

    Raises:
        TrainingError: it is not divisible by the number of processes.
    """
    if batch_size % world.size:
        raise TrainingError(
            f"batch_size is the number of images a step over all processes together, and "
            f"{batch_size} cannot be divided by {world.size} processes; choose a multiple of "
            f"{world.size}."
        )


def trains_batch_norm(model: nn.Module) -> bool:
    """Whether a plain batch norm of the model trains, which needs the whole batch's statistics."""
    return any(
        isinstance(module, nn.BatchNorm2d) and module.weight.requires_grad
        for module in model.modules()
    )


def prepare_norms(model: nn.Module, device: torch.device, world: World) -> None:
    """Let batch norms that train use the statistics of all processes, in place, where they can.

    On a CPU there is no `SyncBatchNorm`: see `norm_note`.
    """
    if world.size > 1 and device.type == "cuda" and trains_batch_norm(model):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def norm_note(model: nn.Module, device: torch.device, world: World) -> str:
    """What differs from one process, in a sentence; "" when nothing does."""
    if world.size > 1 and device.type != "cuda" and trains_batch_norm(model):
        return (
            "batch norms that train use the statistics of each process's own images: there is no "
            f"SyncBatchNorm on {device.type}; freeze them or use v1 to train as one process would"
        )
    return ""


def parallel(module: nn.Module, world: World, *, find_unused: bool) -> nn.Module:
    """The module with its gradients averaged over the processes; itself where there is one.

    Args:
        module: on this process's device; every process starts with rank 0's weights.
        world: the processes.
        find_unused: some parameters take no part in some steps.
    """
    if world.size == 1:
        return module
    return DistributedDataParallel(module, find_unused_parameters=find_unused)
