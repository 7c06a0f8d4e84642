"""One evaluation shared by several processes, as torchrun starts them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)
"""How long the quickest process waits for the slowest."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all that work on the same evaluation.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
        local_rank: number of this one among those on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints the results."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every count-th item."""
        return items[self.rank :: self.count]

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, at the first process; empty at the others."""
        if self.count == 1:
            return [value]
        values: list[T | None] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, values)
        return [item for item in values or () if item is not None]

    def from_first(self, value: T | None) -> T:
        """What the first process gave, at all of them."""
        box = [value]
        if self.count > 1:
            dist.broadcast_object_list(box)
        assert box[0] is not None
        return box[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def launched_processes() -> Iterator[Processes]:
    """The processes that torchrun started, connected; just this one without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        yield Processes(rank=dist.get_rank(), count=count, local_rank=local_rank)
    finally:
        dist.destroy_process_group()
