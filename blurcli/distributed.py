"""Several processes on one job, as torchrun starts them: who does which part, and what they tell each other.

Tensors that training adds up travel by NCCL on GPUs and gloo on CPUs; all else, small or far apart in time, by gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blurcli.errors import UsageError, UserError

# One process may score or measure for long while the others wait; a dead one is noticed at once all the same, by its
# closed connections and by torchrun.
_PATIENCE = timedelta(days=1)
_LOST = ("connection closed by peer", "connection reset by peer", "broken pipe")  # in what gloo says


@dataclass(frozen=True)
class Team:
    """The processes that share a job; by default a process alone.

    Attributes:
        rank: which of them this is, from 0; the first one alone writes and speaks.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1
    _messages: Any = None  # the group of processes on gloo

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things, which `size` divides."""
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def blocks(self, count: int, block: int) -> Iterator[range]:
        """The indices below `count` in blocks, of which this process has every `size`-th."""
        for first in range(self.rank * block, count, self.size * block):
            yield range(first, min(first + block, count))

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all processes, which must be of one shape, on the device."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor = tensor / self.size
        return tensor

    def most(self, value: int) -> int:
        """The largest of all processes' values."""
        if self.size == 1:
            return value
        message = torch.tensor(value)
        dist.all_reduce(message, dist.ReduceOp.MAX, group=self._messages)
        return int(message)

    def least(self, value: int) -> int:
        """The smallest of all processes' values."""
        return -self.most(-value)

    def give(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, which all others have in the same shape and dtype; on the CPU."""
        tensor = tensor.detach().cpu()
        if self.size > 1:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            dist.broadcast(tensor, 0, group=self._messages)
        return tensor

    def wait(self) -> None:
        """Until all processes have come here."""
        self.most(0)

    @contextmanager
    def first_leads(self) -> Iterator[None]:
        """The block is run by the first process of each machine before the others: it finds, or fills, what they share."""
        leads = self.size == 1 or os.environ["LOCAL_RANK"] == "0"
        if not leads:
            self.wait()
        yield
        if leads:
            self.wait()

    def send(self, *tensors: Tensor) -> None:
        """Tensors on the CPU to the first process, which must `receive` them."""
        for tensor in tensors:
            dist.send(tensor.contiguous(), 0, group=self._messages)

    def receive(self, rank: int, *like: Tensor) -> list[Tensor]:
        """What process `rank` sends: tensors of the shapes and dtypes of `like`."""
        tensors = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in like]
        for tensor in tensors:
            dist.recv(tensor, rank, group=self._messages)
        return tensors


ALONE = Team()


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team that torchrun started this process in, while the block runs.

    Args:
        device: where the process computes; on a GPU, that of its local rank becomes the current one.

    Raises:
        UsageError: fewer GPUs than processes on this machine.
        UserError: another process ended, so that this one waited in vain.
    """
    if device.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise UsageError(
                f"torchrun --nproc-per-node: this machine has {found} GPUs; start at most that many processes on it"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_PATIENCE))
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(sign in str(error).lower() for sign in _LOST):
            raise
        raise UserError(
            "another process of the job has ended, and this one cannot go on alone; its own message says why"
        ) from None
    finally:
        dist.destroy_process_group()
