"""Distributed jobs started by torchrun: division of the work, and communication between the processes.

Gradients are reduced with NCCL on GPUs and gloo on CPUs; everything else, small or rare, goes through gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from blurcli.base.errors import UsageError, UserError

# One process may score or measure for long while the others wait; a dead process is noticed at once, by its closed connections
# and by torchrun.
_TIMEOUT = timedelta(days=1)
_Indices = TypeVar("_Indices", range, list[int])
_LOST = ("connection closed by peer", "connection reset by peer", "broken pipe")  # in gloo's messages


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a job; by default a single process.

    Attributes:
        rank: number of this process, from 0; only process 0, the main process, writes files and messages.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1
    _messages: Any = None  # the gloo process group

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` items, a multiple of `size`."""
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def blocks(self, indices: _Indices, block: int) -> Iterator[_Indices]:
        """The blocks of `block` indices of this process: every `size`-th one."""
        for place in range(self.rank * block, len(indices), self.size * block):
            yield indices[place : place + block]

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes, on the device; its shape is the same in all."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor = tensor / self.size
        return tensor

    def max(self, value: int) -> int:
        """The maximum over all processes."""
        if self.size == 1:
            return value
        message = torch.tensor(value)
        dist.all_reduce(message, dist.ReduceOp.MAX, group=self._messages)
        return int(message)

    def min(self, value: int) -> int:
        """The minimum over all processes."""
        return -self.max(-value)

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The main process's tensor, on the CPU; the others pass one of the same shape and dtype."""
        tensor = tensor.detach().cpu()
        if self.size > 1:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            dist.broadcast(tensor, 0, group=self._messages)
        return tensor

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.max(0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the first process of each machine before the others, which then find its results in the cache."""
        leads = self.size == 1 or os.environ["LOCAL_RANK"] == "0"
        if not leads:
            self.wait()
        yield
        if leads:
            self.wait()

    def send(self, *tensors: Tensor) -> None:
        """Send tensors on the CPU to the main process, which must `receive` them."""
        for tensor in tensors:
            dist.send(tensor.contiguous(), 0, group=self._messages)

    def receive(self, rank: int, *like: Tensor) -> list[Tensor]:
        """Receive tensors of the shapes and dtypes of `like` from process `rank`."""
        tensors = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in like]
        for tensor in tensors:
            dist.recv(tensor, rank, group=self._messages)
        return tensors


SINGLE_PROCESS = DistributedContext()


@contextmanager
def joined(device: torch.device) -> Iterator[DistributedContext]:
    """The context of a process that torchrun started, while the block runs.

    Args:
        device: where the process computes; the GPU of its local rank becomes the current one.

    Raises:
        UsageError: fewer GPUs than processes on this machine.
        UserError: another process has ended.
    """
    if device.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise UsageError(f"torchrun --nproc-per-node: this machine has {found} GPUs; start at most {found} processes on it")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_TIMEOUT))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(sign in str(error).lower() for sign in _LOST):
            raise
        raise UserError(
            "another process of the job has ended, and this one cannot continue alone; see the message of that process"
        ) from None
    finally:
        dist.destroy_process_group()
