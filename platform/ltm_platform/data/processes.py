"""The decode processes of one loader."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Sampler

from ltm_platform.compat import fork_server
from ltm_platform.compat.torch import empty_shared, is_running, shut_down
from ltm_platform.data.decode import DecodedBatch, Decoder, Failure, Filled

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ltm_platform.data.order import Batch

T = TypeVar("T")

_PREFETCHED_BATCHES = 2  # per process
_GRACE_SECONDS = 0.5
_MOST_AUTO = 24  # an H100 takes less than what so many give
# A delayed rank delays all others; decoding is ahead of it and can yield the CPU.
_NICENESS = 10
# Imported once by the fork server instead of once in every decode process.
_PRELOAD = ["timm.data", "pyarrow.parquet", "torch.utils.data", "ltm_platform.data.pixels.fast"]


def loader_processes(asked: int | Literal["auto"], ranks: int, *, use_gpu: bool) -> int:
    """Decode processes of one of ``ranks`` on this node.

    ``auto`` gives every rank that trains on a GPU its share of the cores but for one, which it
    needs itself. On CPUs training takes all cores, and one process is ahead of it.
    """
    if asked != "auto":
        return asked
    if not use_gpu:
        return 1
    return min(_MOST_AUTO, max(1, cores() // ranks - 1))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_fork_server() -> None:
    """Start the imports of the decode processes; the earlier, the sooner the first image."""
    fork_server.start(_PRELOAD)


class DecodePool:
    """Decodes batches in order, in ``workers`` processes that live until `close`, or here if 0.

    batch: images that one has at most.

    The processes come from a fork server: the process that trains has threads (Ray's gRPC, gloo,
    CUDA) and must not be forked itself. The server starts with the pool, or before it, and
    imports while the caller builds its model.
    """

    def __init__(self, decoder: Decoder, workers: int, batch: int) -> None:
        assert workers >= 0
        self._decoder = decoder
        self._schedule = _Schedule()
        self._context = _Context()
        self._closed = False
        self._loader: DataLoader[Any] | None = None
        self._results: Generator[DecodedBatch, None, None]
        if workers:
            start_fork_server()
            slots = _PREFETCHED_BATCHES * workers + 1
            shape = (slots, batch, decoder.size, decoder.size, 3)
            self._ring = empty_shared(torch.empty(0, dtype=torch.uint8), shape)
            self._loader = DataLoader(
                _RingDecoder(decoder, self._ring),  # type: ignore[arg-type]  # indexed by tasks
                sampler=self._schedule,
                batch_size=None,
                collate_fn=_unchanged,
                num_workers=workers,
                prefetch_factor=_PREFETCHED_BATCHES,
                persistent_workers=True,
                multiprocessing_context=self._context,
                worker_init_fn=_begin,
                # Its own generator: the global one belongs to the model.
                generator=torch.Generator(),
            )

    def decode(self, batches: Iterable[Batch]) -> Iterator[DecodedBatch]:
        """Every batch, decoded. One pass at a time.

        The processes begin at once, whenever the first batch is requested.

        Raises:
            UserError: an image cannot be read; names it and its source.
            RuntimeError: a decode process died.
        """
        assert not self._closed
        self._results = self._checked(self._begun(batches))
        return self._results

    def _begun(self, batches: Iterable[Batch]) -> Iterator[DecodedBatch | Failure]:
        if self._loader is None:
            return map(self._decoder.__getitem__, batches)
        self._schedule.tasks = map(_Task, cycle(range(len(self._ring))), batches)
        with self._context.exits_reported():
            return map(self._taken, iter(self._loader))

    def _taken(self, result: tuple[int, Filled] | Failure) -> DecodedBatch | Failure:
        """A batch in memory of its own: what is in the ring may change when the next is asked for.

        By then the processes have as many tasks as the ring has other slots.
        """
        if isinstance(result, Failure):
            return result
        slot, filled = result
        return filled.of(self._ring[slot, : len(filled.labels)].clone())

    def _checked(
        self, results: Iterator[DecodedBatch | Failure]
    ) -> Generator[DecodedBatch, None, None]:
        with self._context.exits_reported():
            for result in results:
                if isinstance(result, Failure):
                    raise result.error
                yield result

    def close(self) -> None:
        """End the processes at once; what they are decoding is given half a second."""
        self._closed = True
        if self._loader is None or not is_running(self._loader):
            return
        # A process killed while it holds the lock of torch's stop event would hang us, so torch
        # sets the event first, and only those are killed that do not exit in time.
        killer = threading.Timer(_GRACE_SECONDS, self._context.kill)
        killer.daemon = True
        killer.start()
        shut_down(self._loader)
        killer.cancel()
        # Let go of the semaphores now: Ray kills their tracker before this process exits, and
        # freeing them after that fills the log.
        self._results.close()
        self._loader = None


class _Task(NamedTuple):
    """A batch to decode, and the slot of the ring that it goes to."""

    slot: int
    batch: Batch


@dataclass(frozen=True)
class _RingDecoder:
    """Decodes into memory that is shared for good: mapping it anew for every batch costs more than
    to copy it."""

    decoder: Decoder
    ring: torch.Tensor

    def __getitem__(self, task: _Task) -> tuple[int, Filled] | Failure:
        filled = self.decoder.fill(self.ring[task.slot], task.batch)
        return filled if isinstance(filled, Failure) else (task.slot, filled)


class _Schedule(Sampler[_Task]):
    """What to decode next; lives in this process, so each pass may set another."""

    tasks: Iterable[_Task] = ()

    def __iter__(self) -> Iterator[_Task]:
        return iter(self.tasks)


def _unchanged(item: T) -> T:
    return item


def _begin(_: int) -> None:
    """In a decode process: run at a lower priority than the one that trains, and end with it.

    Torch looks at the parent alone, and that is the fork server, which lives for its children.
    """
    os.nice(_NICENESS)
    trainer = parent_process()
    assert trainer is not None

    def watch() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=watch, name="trainer-watch", daemon=True).start()


class _Context(fork_server.MainlessContext):
    """Makes the decode processes, which need nothing of ``__main__``, and notices when one dies."""

    @contextmanager
    def exits_reported(self) -> Iterator[None]:
        """An error in the block that is due to the exit of a process is raised as such."""
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            # A death shows as any of these, depending on what the process was doing.
            self._raise_if_dead(error)
            raise

    def _raise_if_dead(self, cause: Exception) -> None:
        """RuntimeError if a process has ended; waits a second for the fork server to say so."""
        connection.wait([process.sentinel for process in self.processes], timeout=1)
        for process in self.processes:
            if process.exitcode is not None:
                raise RuntimeError(
                    f"decode process {process.pid} died with exit code {process.exitcode}; "
                    "-9 mostly means that the machine ran out of memory"
                ) from cause

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
