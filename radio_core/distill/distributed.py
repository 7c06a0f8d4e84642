"""The processes that train one student together, as torchrun or accelerate start them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from radio_core.distill.liveness import Watch

T = TypeVar("T")
_LONG = timedelta(days=7)
_BUCKET = 2**24  # values that are summed at once: 64 MB of float32


class RankFailure(RuntimeError):
    """A process of the run has failed; the message names it and what to do."""


class Ranks:
    """This process among those of the run; alone unless `join_ranks` says otherwise.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, which is that of its GPU.
        watch: notices processes that have gone.
        timeout: seconds to wait for the others where they should come at about the same time.

    Attributes:
        rank: as given.
        size: as given.
        local_rank: as given.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        watch: Watch | None = None,
        timeout: int = 600,
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._watch = watch
        # Plain objects go through gloo: they are on the CPU whatever the student's device is.
        self._control: Any = _group(timedelta(seconds=timeout)) if size > 1 else None
        self._patient: Any = _group(_LONG) if size > 1 else None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def gather(self, value: T, patient: bool = False) -> list[T]:
        """Everyone's value, by rank. Also a point that no process passes before all have come.

        Args:
            value: small and picklable.
            patient: after work of which one process may have hours more than another.
        """
        if self._control is None:
            return [value]
        values: list[Any] = [None] * self.size
        group = self._patient if patient else self._control
        dist.all_gather_object(values, value, group=group)
        return values

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place; every process gets the
        same bits.

        Args:
            tensors: of the same shapes and dtypes in every process.
        """
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            pieces = flat.split([tensor.numel() for tensor in bucket])
            for tensor, piece in zip(bucket, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def tell(self, error: Exception) -> None:
        """Let the others know of an error that explains itself; they end.

        Raises:
            SystemExit: another process has told of its error already; one message is enough.
        """
        if self._watch is None:
            return
        if not self._watch.fail(str(error)):
            raise SystemExit(1) from error
        self._watch.wait_for_others()

    def blame(self, error: BaseException, advice: str) -> NoReturn:
        """End this process after an error, perhaps one that only follows from another's end.

        Args:
            error: what happened here; perhaps only because another process has gone.
            advice: what the user can do, for the end of the message.

        Raises:
            SystemExit: another process has told already.
            RankFailure: a process has gone, or this one has failed.
        """
        assert self._watch is not None, "alone there is nobody else to blame"
        lost = [] if self._watch.failed() else self._watch.silent()
        names = " and ".join(self._watch.describe(rank) for rank in lost)
        message = (
            f"{names} died or no longer answers; all processes stop. {advice}"
            if lost
            else f"{self._watch.describe(self.rank)}: {error}. {advice}"
        )
        if not self._watch.fail(message):
            raise SystemExit(1) from error
        raise RankFailure(message) from error


def _group(timeout: timedelta) -> Any:
    """All processes once more, with a patience of their own; all of them must call."""
    return dist.new_group(backend="gloo", timeout=timeout)


@contextmanager
def join_ranks(device: str, timeout: int) -> Iterator[Ranks]:
    """Meet the other processes of the run, if a launcher has started several.

    Args:
        device: the config's; "cpu" talks through gloo, anything else through NCCL.
        timeout: seconds after which a process that does not answer ends the run.

    Raises:
        RankFailure: they do not all come within the timeout.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout)
        )
        watch = Watch(address, rank, size, attempt, timeout)
        ranks = Ranks(rank, size, local_rank, watch, timeout)
    except RuntimeError as error:
        raise RankFailure(
            f"rank {rank} of {size} found no contact with all other processes within {timeout} s "
            f"(MASTER_ADDR {address[0]}, MASTER_PORT {address[1]}): {error}"
        ) from error
    yield ranks
    ranks.gather(None)  # nobody leaves while another still needs the store
    watch.stop()
    dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over the processes; all of them must call."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of the same dtype, up to a total size."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > _BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
