"""A byte of a checkpoint that is lost or changed is found by name, or changes nothing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from ray.train import Checkpoint, CheckpointConfig

from ltm_platform.compat.ray_checkpoints import RECORD_FILE
from ltm_platform.compat.ray_train import CheckpointKeeper
from ltm_platform.errors import UserError
from ltm_platform.storage.checkpoints import BEST_METRIC, choose
from ltm_platform.storage.manifest import check_weights
from ltm_platform.storage.path import storage_path
from ltm_platform.storage.resume_plan import plan_to_resume
from ltm_platform.storage.run_folder import RunFolder, RunIdentity
from ltm_platform.training.checkpoint import Snapshot

from ...version_0_1 import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUN = RunIdentity("run", "f00d")
KEPT = CheckpointConfig(
    num_to_keep=3, checkpoint_score_attribute=BEST_METRIC, checkpoint_score_order="max"
)
TOP1 = {"checkpoint_1": 90.0, "checkpoint_2": 95.0, "checkpoint_3": None}
RANKS = 2
FLIPS, CUTS = 8, 3
"""Of each file."""

Outcome = str | list[object]


def snapshot(rank: int, steps: int) -> Snapshot:
    """A rank's part of a small checkpoint."""
    generator = torch.Generator().manual_seed(steps)
    files = ("model", "model_ema", "optimizer")
    tensors = {f"{name}.safetensors": {"w": torch.rand(40, generator=generator)} for name in files}
    texts = {"progress.json": f'{{"history": "{steps}"}}', "job.yaml": f"name: s{steps}\n"}
    return Snapshot(
        rank=rank,
        world_size=RANKS,
        steps_done=steps,
        tensors={} if rank else tensors,
        texts={} if rank else texts,
        random={"torch": torch.arange(rank, rank + 9)},
    )


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with three checkpoints of two ranks, as training writes and Ray Train records them."""
    folder = tmp_path_factory.mktemp("runs") / RUN.name
    keeper = CheckpointKeeper(folder, KEPT)
    for steps, (name, top1) in enumerate(TOP1.items(), start=1):
        metrics = {} if top1 is None else {BEST_METRIC: top1}
        for rank in range(RANKS):
            snapshot(rank, steps).write(storage_path(folder / name), RUN, metrics)
        keeper.register(Checkpoint.from_directory(folder / name), metrics)
    run = RunFolder(folder)
    run.belongs_to(RUN.run_id)
    return run


def content(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted(path.iterdir())}


def resumed(run: RunFolder) -> Outcome:
    """What training would be restored from, and what else is known and kept; or what is said."""
    try:
        plan = plan_to_resume(run, None, RUN.run_id)
    except UserError as error:
        return str(error)
    if plan.notices:
        return " ".join(plan.notices)
    plan.carry_out()
    latest = CheckpointKeeper(run.path, KEPT).latest
    assert latest
    return [latest.name, [one.path.name for one in plan.kept], content(latest)]


def evaluated(run: RunFolder, *, last: bool) -> Outcome:
    """The files of the best or the last checkpoint; or what is said."""
    try:
        chosen = choose(run, last=last, run_id=RUN.run_id)
        assert chosen
        return [chosen.path.name, content(chosen.checked(RUN.run_id))]
    except UserError as error:
        return str(error)


def exported(run: RunFolder) -> Outcome:
    """The files of a checkpoint's folder that somebody names."""
    try:
        check_weights(run.path / "checkpoint_2", run_id=RUN.run_id, name="checkpoint_2")
    except UserError as error:
        return str(error)
    return [content(run.path / "checkpoint_2")]


def outcomes(run: RunFolder) -> list[Outcome]:
    return [evaluated(run, last=False), evaluated(run, last=True), exported(run), resumed(run)]


def harms(path: Path, seed: str) -> Iterator[tuple[str, bytes]]:
    """Flips of a bit and truncations of a file, anywhere, and the file without its end."""
    draw, whole = random.Random(seed), path.read_bytes()
    for _ in range(FLIPS):
        position, bit = draw.randrange(len(whole)), draw.randrange(8)
        harmed = bytearray(whole)
        harmed[position] ^= 1 << bit
        yield f"bit {bit} of byte {position}", bytes(harmed)
    for size in [0, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(CUTS - 2))]:
        yield f"cut to {size} bytes", whole[:size]


def rewound(run: RunFolder, intact: RunFolder) -> None:
    shutil.rmtree(run.path)
    shutil.copytree(intact.path, run.path)


FILES = (
    RECORD_FILE,
    *(
        f"{folder}/{name}"
        for folder in TOP1
        for name in (
            "manifest_rank0.json",
            "manifest_rank1.json",
            "model.safetensors",
            "model_ema.safetensors",
            "optimizer.safetensors",
            "progress.json",
            "job.yaml",
            "random_rank0.pt",
            "random_rank1.pt",
        )
    ),
)


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_byte_is_found_by_name_or_changes_nothing(
    intact: RunFolder, tmp_path: Path, file: str
) -> None:
    assert {path.name for path in (intact.path / "checkpoint_1").iterdir()} == {
        Path(one).name for one in FILES if one.startswith("checkpoint_1")
    }
    run = RunFolder(tmp_path / "runs" / RUN.name)
    shutil.copytree(intact.path, run.path)
    right = outcomes(run)
    assert not any(isinstance(one, str) for one in right)
    for harm, harmed in harms(intact.path / file, file):
        rewound(run, intact)
        (run.path / file).write_bytes(harmed)
        found = outcomes(run)
        assert set(run.storage.folders()) == set(TOP1), f"{file}, {harm}: a folder is gone"
        for mine, its in zip(found, right, strict=True):
            if isinstance(mine, str):
                folder = Path(file).parent.name
                assert Path(file).name in mine, f"{file}, {harm}: {mine}"
                assert folder in mine, f"{file}, {harm}: {mine}"
            else:
                assert mine == its, f"{file}, {harm}: another result"


@pytest.mark.parametrize("file", FILES)
def test_a_lost_file_is_found_by_name(intact: RunFolder, tmp_path: Path, file: str) -> None:
    run = RunFolder(tmp_path / "runs" / RUN.name)
    shutil.copytree(intact.path, run.path)
    right = outcomes(run)
    rewound(run, intact)
    (run.path / file).unlink()
    for mine, its in zip(outcomes(run), right, strict=True):
        assert mine == its or (isinstance(mine, str) and Path(file).name in mine)
    assert set(run.storage.folders()) == set(TOP1)


EXCHANGES: dict[str, Callable[[Path], None]] = {
    "the manifest of an older one": lambda run: _copy(run, 1, 3, "manifest_rank0.json"),
    "both manifests of an older one": lambda run: _copy(run, 1, 3, "manifest_rank?.json"),
    "an older one's folder": lambda run: _copy(run, 1, 3, "*"),
    "the weights of an older one": lambda run: _copy(run, 1, 3, "model.safetensors"),
    "the random state of an older one": lambda run: _copy(run, 2, 3, "random_rank1.pt"),
}


def _copy(run: Path, source: int, target: int, pattern: str) -> None:
    for path in (run / f"checkpoint_{source}").glob(pattern):
        shutil.copy(path, run / f"checkpoint_{target}" / path.name)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_files_of_another_checkpoint_are_told(
    intact: RunFolder, tmp_path: Path, exchange: str
) -> None:
    run = RunFolder(tmp_path / "runs" / RUN.name)
    shutil.copytree(intact.path, run.path)
    changed = content(run.path / "checkpoint_3")
    EXCHANGES[exchange](run.path)
    if content(run.path / "checkpoint_3") == changed:
        return  # random states are alike here
    said = [resumed(run), evaluated(run, last=True)]
    assert all(isinstance(one, str) and "checkpoint_3 is damaged: " in one for one in said), said


def test_a_checkpoint_in_an_object_store_is_as_one_here(bucket: str, intact: RunFolder) -> None:
    target = storage_path(f"{bucket}/runs/run/checkpoint_2")
    for rank in range(RANKS):
        snapshot(rank, 2).write(target, RUN, {BEST_METRIC: 95.0})
    written = {name: (target / name).read() for name, _ in target.files()}
    assert written == content(intact.path / "checkpoint_2")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The stopped run of version 0.1."""
    stored = unpack(tmp_path_factory.mktemp("version-0.1"))
    return RunFolder(stored.home / "runs" / "stopped")


def test_a_run_of_version_0_1_is_resumed_with_a_warning(old: RunFolder) -> None:
    plan = plan_to_resume(old, None, RUN.run_id)
    (notice,) = plan.notices
    assert "is of version 0.1" in notice
    (kept,) = plan.kept
    assert kept.steps_done == 6
    assert kept.top1 == pytest.approx(41.6667, abs=1e-3)


def test_a_run_of_version_0_1_gets_a_new_record_with_its_metrics(
    old: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "stopped")
    shutil.copytree(old.path, run.path)
    record = (run.path / RECORD_FILE).read_bytes()
    (run.path / RECORD_FILE).unlink()
    plan_to_resume(run, None, None).carry_out()
    assert (run.path / RECORD_FILE).read_bytes() == record
