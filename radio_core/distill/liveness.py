"""How the processes of a run notice that one of them has failed, so that none waits for ever.

Every process writes a beat into the store that started the run, and a thread watches the beat of
the next one. Whoever fails, or finds another silent, leaves a note there; a process that finds a
note ends. Collectives alone would not do: those of a GPU wait for minutes before they give up, and
none of them says who is missing.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

BEAT = 1.0
"""Seconds between two beats."""

SILENCE = 20.0
"""Seconds without a beat after which a process counts as dead."""

_NOTE = "failed"
_GRACE = 10.0  # for a process to end by itself after a note, e.g. to write its own message
_LOOK = 3 * BEAT


class Watch:
    """The beats of this process and of its fellows.

    Args:
        address: host and port of the run's store.
        rank: this process.
        size: number of processes.
        attempt: distinguishes restarts of a run by its launcher, which keep the store.
        timeout: seconds to wait for the fellows at the start.
    """

    def __init__(
        self, address: tuple[str, int], rank: int, size: int, attempt: str, timeout: float
    ) -> None:
        wait = timedelta(seconds=timeout)
        client = dist.TCPStore(  # type: ignore[attr-defined]
            *address, is_master=False, timeout=wait
        )
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
        """End the thread: the run is over, and other processes may leave."""
        self._ended.set()
        self._thread.join()

    def fail(self, message: str) -> bool:
        """Leave a note that the run has failed; False if there was one before."""
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
        latest = time.monotonic() + _GRACE
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < latest:
                with self._lock:
                    if self._store.check(everyone):
                        return
                time.sleep(0.1)

    def failed(self) -> bool:
        """Whether any process has left a note."""
        with self._lock:
            return bool(self._store.check([_NOTE]))

    def silent(self) -> list[int]:
        """The ranks that give no beat while this is watching, for some seconds."""
        try:
            before = [self._read(rank) for rank in range(self.size)]
            time.sleep(_LOOK)
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
                if self.failed() and not self._ended.wait(_GRACE):
                    os._exit(1)  # the main thread waits for a fellow that will not come
            except RuntimeError:  # the process that holds the store is gone
                if not self._ended.wait(_GRACE):
                    os._exit(1)
