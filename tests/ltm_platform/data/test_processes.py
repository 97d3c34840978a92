"""The decode processes: when they begin and end, and what happens when one does not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING

import psutil
import pytest
import torch

from ltm_platform.data import processes
from ltm_platform.data.decode import Decoder
from ltm_platform.data.order import Order
from ltm_platform.data.pixels.exact import ExactEvaluation
from ltm_platform.data.processes import DecodePool, loader_processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ltm_platform.data import Dataset
    from ltm_platform.data.order import Batch

PLAIN = ExactEvaluation(8)


def pool(digits: Dataset, workers: int) -> DecodePool:
    return DecodePool(Decoder(digits.train, PLAIN, seed=5), workers, batch=4)


def epoch(digits: Dataset, number: int = 0) -> Iterator[Batch]:
    return Order(len(digits.train), global_batch=4, seed=5).epoch(number)


def test_auto_shares_the_cores_of_a_node_among_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 64)
    assert loader_processes("auto", 8, use_gpu=True) == 7
    assert loader_processes("auto", 1, use_gpu=True) == 24, "more than a GPU can take"
    assert loader_processes("auto", 64, use_gpu=True) == 1
    assert loader_processes("auto", 2, use_gpu=False) == 1, "training takes all cores"
    assert [loader_processes(number, 8, use_gpu=True) for number in (0, 3)] == [0, 3]


def test_processes_begin_before_the_first_batch_is_asked_for(digits: Dataset) -> None:
    with closing(pool(digits, workers=1)) as decoding:
        before = decode_processes()
        batches = decoding.decode(epoch(digits))
        assert len(decode_processes()) == len(before) + 1
        assert len(next(batches)[1]) == 4


def test_processes_live_on_when_an_epoch_is_left_early(digits: Dataset) -> None:
    with closing(pool(digits, workers=2)) as decoding:
        next(decoding.decode(epoch(digits)))
        before = decode_processes()
        images, *_ = next(decoding.decode(epoch(digits, 1)))
        assert decode_processes() == before
    assert torch.equal(images, next(pool(digits, workers=0).decode(epoch(digits, 1)))[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_that_are_kept_do_not_change(digits: Dataset, workers: int) -> None:
    """Though the memory that processes decode into is used again, an epoch left early or not."""
    number, expected = 9, list(islice(pool(digits, workers=0).decode(epoch(digits, 1)), 9))
    with closing(pool(digits, workers)) as decoding:
        next(decoding.decode(epoch(digits)))
        kept = list(islice(decoding.decode(epoch(digits, 1)), number))
        next(decoding.decode(epoch(digits)))
    for ours, theirs in zip(kept, expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_close_ends_the_processes(digits: Dataset) -> None:
    decoding = pool(digits, workers=2)
    batches = decoding.decode(epoch(digits))
    next(batches)
    running = decode_processes()
    assert len(running) == 2
    decoding.close()
    assert not decode_processes()
    decoding.close()


def test_decoding_gives_way_to_training(digits: Dataset) -> None:
    with closing(pool(digits, workers=1)) as decoding:
        next(decoding.decode(epoch(digits)))
        (process,) = decode_processes()
        assert psutil.Process(process).nice() > psutil.Process().nice()


def test_a_decode_process_that_dies_is_an_error(digits: Dataset) -> None:
    with closing(pool(digits, workers=1)) as decoding:
        batches = decoding.decode(epoch(digits))
        next(batches)
        (process,) = decode_processes()
        psutil.Process(process).kill()
        with pytest.raises(RuntimeError, match="died with exit code -9"):
            list(batches)


LOADING = """
import sys
from pathlib import Path
from ltm_platform.data import open_dataset
from ltm_platform.data.loader import Loader
from ltm_platform.data.pixels.exact import ExactEvaluation

data = open_dataset("digits", cache=Path(sys.argv[1]), val_fraction=0.2).train
pipeline = ExactEvaluation(8)
loader = Loader(
    data, pipeline, micro_batch=4, accumulation=1, rank=0, world_size=1, seed=0, workers=2
)
batches = loader.epoch(0)
next(batches)
print("loading", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_no_process_outlives_a_killed_trainer(ltm_home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOADING, str(ltm_home / "cache")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "loading\n"
        below = psutil.Process(trainer.pid).children(recursive=True)
        trainer.kill()
    assert len(below) >= 3  # a fork server and two decoders
    _, left = psutil.wait_procs(below, timeout=300)
    assert not left


def test_the_main_module_is_not_run_again(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, trace = tmp_path / "script.py", tmp_path / "trace"
    script.write_text(f"open({str(trace)!r}, 'w')")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    with closing(pool(digits, workers=1)) as decoding:
        next(decoding.decode(epoch(digits)))
    assert sys.modules["__main__"] is main
    assert not trace.exists()


def decode_processes() -> set[int]:
    """Processes that the fork server has forked and that still run."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "forkserver" in " ".join(process.cmdline())
        and "forkserver" in " ".join((process.parent() or process).cmdline())
        and process.status() != psutil.STATUS_ZOMBIE
    }
