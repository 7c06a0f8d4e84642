"""The processes that do one job together, as torchrun, accelerate or srun start them.

Training, evaluation and the filling of caches share this. A thread of each process writes a beat
into the store that started the job, and watches the beat of the next process. Whoever fails, or
finds another silent, leaves a note there; a process that finds a note ends. Collectives alone would
not do: those of a GPU wait for minutes before they give up, and none says who is missing.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from radio_core.devices import choose_device

T = TypeVar("T")

BEAT = 1.0
"""Seconds between two beats."""

SILENCE = 20.0
"""Seconds without a beat after which a process counts as dead."""

GRACE = 10.0
"""Seconds that a process has to end by itself after a note, e.g. to write its own message."""

_LONG = timedelta(days=7)
_BUCKET = 2**24  # values that are summed at once: 64 MB of float32
_NOTE = "failed"


class ProcessFailure(RuntimeError):
    """A process of the job has failed; the message names it and what to do."""


class Processes:
    """This process among those of a job; alone unless `join_processes` made it.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        local_rank: number of this process among those on its machine.

    Attributes:
        rank: as given.
        size: as given.
        local_rank: as given.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._watch: _Watch | None = None
        # Plain objects go through gloo: they are on the CPU whatever the device is.
        self._control: Any = None
        self._patient: Any = None

    @classmethod
    def launched(cls) -> "Processes":
        """What the launcher says of this process; it meets no others.

        srun's own variables count where MASTER_ADDR and MASTER_PORT are set.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "WORLD_SIZE" not in os.environ and {"SLURM_NTASKS", "MASTER_ADDR"} <= os.environ.keys():
            names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        rank, size, local_rank = (os.environ.get(name, "") for name in names)
        return cls(int(rank or 0), int(size or 1), int(local_rank or 0))

    @property
    def first(self) -> bool:
        """True for the process that writes files and messages."""
        return self.rank == 0

    def device(self, name: str = "auto", model: str = "") -> torch.device:
        """As `choose_device`, with a GPU of its own for each process of a machine."""
        device = choose_device(name, model)
        if device.type != "cuda" or device.index is not None or self.size == 1:
            return device
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items: every size-th one."""
        return items[self.rank :: self.size]

    def gather(self, value: T, patient: bool = False, first_only: bool = False) -> list[T]:
        """Everyone's value, by rank. Also a point that no process passes before all have come.

        Args:
            value: picklable.
            patient: after work of which one process may have hours more than another.
            first_only: large values that the first process alone needs; the others get none, and
                do not wait.
        """
        if self.size == 1:
            return [value]
        group = self._patient if patient else self._control
        values: list[Any] = [None] * self.size
        if first_only:
            dist.gather_object(value, values if self.first else None, dst=0, group=group)
            return values if self.first else []
        dist.all_gather_object(values, value, group=group)
        return values

    def broadcast(self, value: T | None) -> T:
        """The first process's value, at all of them; the others' values do not matter."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, group=self._control)
        return box[0]  # type: ignore[return-value]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place; all get the same bits.

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

    def _tell(self, error: Exception) -> None:
        """Let the others know of an error that explains itself; they end.

        Raises:
            SystemExit: another process has told of its error already; one message is enough.
        """
        if self._watch is not None:
            if not self._watch.fail(str(error)):
                raise SystemExit(1) from error
            self._watch.wait_for_others()

    def _blame(self, error: BaseException, advice: str) -> NoReturn:
        """End after an error that perhaps only follows from another process's end."""
        assert self._watch is not None, "alone there is nobody else to blame"
        lost = [] if self._watch.failed() else self._watch.silent()
        names = " and ".join(self._watch.describe(rank) for rank in lost)
        message = (
            f"{names} died or no longer answers; all processes stop. {advice}"
            if lost
            else f"{self._watch.describe(self.rank)}: {error}. {advice}"
        ).rstrip()
        if not self._watch.fail(message):
            raise SystemExit(1) from error
        raise ProcessFailure(message) from error


@contextmanager
def join_processes(
    device: str = "cpu",
    timeout: int | None = None,
    *,
    explained: tuple[type[Exception], ...] = (ValueError,),
    advice: Callable[[], str] = lambda: "",
) -> Iterator[Processes]:
    """Meet the other processes of the job, if a launcher has started several.

    Where one of them fails in the block, all end, and one message says why.

    Args:
        device: "cpu" sums through gloo, anything else through NCCL where there are GPUs.
        timeout: seconds to wait for the others where they should come at about the same time;
            None waits for them however long they take.
        explained: errors whose own message is enough.
        advice: the end of the message about any other.

    Raises:
        ProcessFailure: they do not all come, or one has died or failed.
    """
    processes = Processes.launched()
    if processes.size == 1:
        yield processes
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(processes.local_rank % torch.cuda.device_count())
    rank, size, wait = processes.rank, processes.size, timeout or 600
    address = (os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0")))
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timedelta(seconds=wait),
            rank=rank,
            world_size=size,
        )
        watch = processes._watch = _Watch(address, rank, size, wait)
        processes._patient = dist.new_group(backend="gloo", timeout=_LONG)
        processes._control = processes._patient
        if timeout is not None:
            patience = timedelta(seconds=timeout)
            processes._control = dist.new_group(backend="gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise ProcessFailure(
            f"rank {rank} of {size} found no contact with all other processes within {wait} s "
            f"(MASTER_ADDR {address[0]}, MASTER_PORT {address[1]}): {error}"
        ) from error
    try:
        yield processes
    except explained as error:
        processes._tell(error)
        raise
    except (OSError, RuntimeError) as error:
        processes._blame(error, advice())
    processes.gather(None, patient=True)  # nobody leaves while another still needs the store
    watch.stop()
    dist.destroy_process_group()


class _Watch:
    """The beats of this process and of its fellows; the arguments are those of the job."""

    def __init__(self, address: tuple[str, int], rank: int, size: int, timeout: float) -> None:
        wait = timedelta(seconds=timeout)
        client = dist.TCPStore(  # type: ignore[attr-defined]
            *address, is_master=False, timeout=wait
        )
        # Restarts of a job by its launcher keep the store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"radio/{attempt}", client)  # type: ignore[attr-defined]
        self.rank, self.size = rank, size
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beats = 0
        self._store.set(f"name/{rank}", f"{socket.gethostname()}, process {os.getpid()}")
        self._beat()
        self._store.wait([f"beat/{other}" for other in range(size)], wait)
        self._thread = threading.Thread(target=self._run, name="watch of ranks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread: the job is done, and other processes may leave."""
        self._ended.set()
        self._thread.join()

    def fail(self, message: str) -> bool:
        """Leave a note that the job has failed; False if there was one before."""
        mine = f"{self.rank}: {message}"
        with contextlib.suppress(RuntimeError):  # the store may be gone by now
            with self._lock:
                first = bool(self._store.compare_set(_NOTE, "", mine).decode() == mine)
                self._store.set(f"knows/{self.rank}", "")
            return first
        return True

    def wait_for_others(self) -> None:
        """Stay until the others have failed, too, or for some seconds.

        For an error that all of them meet: the process that holds the store must not take it away
        before they have seen the note. Where torchrun holds it, nobody needs to wait.
        """
        if self.rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        everyone = [f"knows/{rank}" for rank in range(self.size)]
        latest = time.monotonic() + GRACE
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < latest:
                with self._lock:
                    if self._store.check(everyone):
                        return
                time.sleep(0.1)

    def failed(self) -> bool:
        """True once any process has left a note."""
        with self._lock:
            return bool(self._store.check([_NOTE]))

    def silent(self) -> list[int]:
        """The ranks that give no beat while this is watching, for some seconds."""
        try:
            before = [self._read(rank) for rank in range(self.size)]
            time.sleep(3 * BEAT)
            after = [self._read(rank) for rank in range(self.size)]
        except RuntimeError:  # the process that holds the store is gone
            return [0]
        return [rank for rank in range(self.size) if before[rank] == after[rank]]

    def describe(self, rank: int) -> str:
        """A rank as people can find it, e.g. "rank 1 of 2 (node07, process 4711)"."""
        try:
            with self._lock:
                where = f" ({self._store.get(f'name/{rank}').decode()})"
        except RuntimeError:
            where = ""
        return f"rank {rank} of {self.size}{where}"

    def _beat(self) -> None:
        self._beats += 1
        with self._lock:
            self._store.set(f"beat/{self.rank}", str(self._beats))

    def _read(self, rank: int) -> bytes:
        with self._lock:
            return bytes(self._store.get(f"beat/{rank}"))

    def _run(self) -> None:
        neighbour, heard = (self.rank + 1) % self.size, (b"", time.monotonic())
        while not self._ended.wait(BEAT):
            try:
                self._beat()
                beat, now = self._read(neighbour), time.monotonic()
                heard = (beat, now) if beat != heard[0] else heard
                lost = now - heard[1] > SILENCE
                message = f"{self.describe(neighbour)} no longer answers; all processes stop"
                if lost and self.fail(message):
                    print(f"radio: {message}", file=sys.stderr, flush=True)
                if self.failed() and not self._ended.wait(GRACE):
                    os._exit(1)  # the main thread waits for a fellow that will not come
            except RuntimeError:  # the process that holds the store is gone
                if not self._ended.wait(GRACE):
                    os._exit(1)


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
