"""Devices by name, the ranks of a run, and the seed of every random stream."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

Purpose = Literal["weights", "order", "augment"]
_PURPOSES: tuple[Purpose, ...] = ("weights", "order", "augment")
T = TypeVar("T")

PATIENCE = timedelta(minutes=5)
"""Timeout of an exchange between ranks. A rank that dies is noticed at once, by its closed connection and by torchrun; this is
for one that hangs, or a machine that vanishes. It leaves time to compile, which ranks finish at different times."""
LONG_PATIENCE = timedelta(hours=6)


def stream_seed(seed: int, purpose: Purpose, *, epoch: int = 0, rank: int = 0, worker: int | None = None) -> int:
    """Return the seed of a random stream of a run, in [0, 2**63); nothing else seeds anything.

    - ``weights``: the initial weights, equal on all ranks.
    - ``order``: the order of the training images in ``epoch``, equal on all ranks, which then take turns in it.
    - ``augment``: the draws of the training process (``worker=None``) or of loader worker ``worker`` of ``rank`` in ``epoch``.
      The stream is started anew in each epoch, so that an epoch does not depend on the draws of the one before.

    The five numbers are hashed together (numpy's SeedSequence): neighbouring seeds, epochs, ranks and workers get unrelated
    streams. With equal seed, ranks and workers a run on a CPU repeats bit for bit.
    """
    key = (seed, _PURPOSES.index(purpose), epoch, rank, 0 if worker is None else worker + 1)
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


# ---- devices ----------------------------------------------------------------------------------------------------------


def _under_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0")) if _under_torchrun() else 0


def resolve_device(name: str) -> torch.device:
    """Return the device of this process: ``auto`` is the accelerator if there is one; under torchrun each process has its own.

    Raises ValueError for an unknown name, or a device that this machine lacks.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        name = accelerator.type if accelerator else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}: take auto, cpu, cuda, cuda:1, mps, ...") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if accelerator is None or device.type != accelerator.type:
        here = f"the accelerator here is {accelerator.type}" if accelerator else "this machine has no accelerator"
        raise ValueError(f"no device {name!r}: {here} (as torch {torch.__version__} sees it); take --device auto or cpu")
    index, count = _local_rank() if _under_torchrun() else device.index or 0, torch.accelerator.device_count()
    if index >= count:
        hint = f"; start torchrun with --nproc-per-node={count}" if _under_torchrun() else ""
        raise ValueError(f"no device '{device.type}:{index}': there are {count}, counted from 0{hint}")
    return torch.device(device.type, index)


def visible_devices(name: str) -> list[torch.device]:
    """Return the devices that one process trains on: all GPUs for a plain ``cuda`` outside torchrun, else one."""
    first = resolve_device(name)
    if first.type != "cuda" or _under_torchrun() or torch.device("cuda" if name == "auto" else name).index is not None:
        return [first]
    return [torch.device("cuda", i) for i in range(torch.accelerator.device_count())]


def initialise(device: torch.device) -> None:
    """Initialise an accelerator by an allocation: before one, its memory statistics and streams raise "Invalid device"."""
    if device.type != "cpu":
        torch.zeros(1, device=device)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all queued work; no-op on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# ---- processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The process among all that train one model. A plain process is rank 0 of 1, and its exchanges are no-ops."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patient: dist.ProcessGroup | None = None
    """Process group for waits that may be long."""

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0, which alone prints and writes."""
        return self.rank == 0

    @property
    def _precise(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over ranks of a tensor on the device, on every rank."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, *values: float) -> list[float]:
        """Return the largest of each value over ranks (the slowest rank's seconds), on every rank."""
        return self._reduce(torch.tensor(values, dtype=self._precise, device=self.device), dist.ReduceOp.MAX).tolist()

    def total(self, *values: float) -> list[float]:
        """Return the sum of each value over ranks, on every rank."""
        return self.sum(torch.tensor(values, dtype=self._precise, device=self.device)).tolist()

    def agree(self, answer: bool) -> bool:
        """Return rank 0's answer, on every rank."""
        return bool(self.largest(float(answer and self.is_main))[0])

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, by rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def run_on_main(self, function: Callable[[], T]) -> T:
        """Return rank 0's result of the function, on every rank; its ValueError or OSError is raised on every rank too."""
        answer: list[Any] = [None]
        if self.is_main:
            try:
                answer = [function()]
            except (ValueError, OSError) as error:
                answer = [error]
        if self.world > 1:
            dist.broadcast_object_list(answer, 0, group=self.patient)
        if isinstance(answer[0], ValueError | OSError):
            raise answer[0]
        return cast(T, answer[0])

    def check_equal(self, noun: str, value: Mapping[str, Any]) -> None:
        """Raise ValueError, on every rank, if two ranks have different values."""
        for rank, there in enumerate(self.gather(value)):
            name = next((name for name in value if there[name] != value[name]), None)
            if name is not None:
                raise ValueError(
                    f"ranks {self.rank} and {rank} have different {noun}: {name} is {value[name]} and {there[name]}; "
                    "start all with the same options on the same data"
                )

    def wait_for_all(self) -> None:
        """Wait until every rank has come here, however long another takes (to download or decode)."""
        if self.world > 1:
            dist.barrier(self.patient)

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give every rank rank 0's running statistics; each rank has gathered its own from its own images."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def _reduce(self, values: Tensor, op: Any) -> Tensor:
        if self.world > 1:
            dist.all_reduce(values, op)
        return values


@contextlib.contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Connect the ranks of this run while the block runs: NCCL between CUDA devices, Gloo otherwise."""
    if not _under_torchrun():
        yield Ranks(device=device)
        return
    initialise(device)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    is_owner = not dist.is_initialized()
    if is_owner:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(
            rank=dist.get_rank(), world=dist.get_world_size(), local_rank=_local_rank(), device=device,
            patient=cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=LONG_PATIENCE)),
        )  # fmt: skip
    finally:
        if is_owner:
            dist.destroy_process_group()


def parallelise(model: nn.Module, ranks: Ranks, devices: list[torch.device]) -> nn.Module:
    """Return the model over many devices: DDP between processes, the book's DataParallel over the GPUs of one, else itself."""
    if ranks.world > 1:
        device_ids = None if ranks.device.type == "cpu" else [ranks.device.index]
        return nn.parallel.DistributedDataParallel(model, device_ids=device_ids)
    if len(devices) > 1:
        return nn.DataParallel(model, device_ids=[device.index for device in devices])
    return model
