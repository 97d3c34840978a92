"""What a campaign works on: small sets of images, jobs that train on them, homes for runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TRAIN_IMAGES, VAL_IMAGES = 48, 20
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",  # else Ray would write a token into the user's home
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    # jitter draws from the RNG of the process, which here is the rank
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
NAME = "hit"
"""Of the run of a case."""

BASE = """\
extends: quickstart
model: {{backbone: vit_nano_patch4_32, image_size: 32, method: {method}}}
data: {{path: {data}, loader_workers: {decoders}}}
recipe: {{epochs: {epochs}, global_batch: 8, warmup_epochs: 0,
  ema_decay: {ema}, ib: {{warmup: 0.5}}{recipe}}}
engine: {{zero_stage: {stage}}}
checkpoint: {{every_steps: {every}, keep: {keep}}}
cluster: {{workers: {workers}, max_failures: {failures}}}
tracking: {{log_model: false}}
"""
"""An epoch is six steps."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the jobs that are trained."""

    name: str
    every: int = 2
    keep: int = 2
    method: str = "ltm"
    stage: int = 1
    decoders: int = 0
    ema: str = "0.9"
    recipe: str = ""
    workers: int = 1
    epochs: int = 3
    failures: int = 2
    weight: int = 4
    """How often it is drawn, beside the others."""

    def job(self, data: Path) -> str:
        fields = {
            slot: getattr(self, slot) for slot in self.__slots__ if slot not in ("name", "weight")
        }
        return BASE.format(data=data, **fields)


VARIANTS = (
    Variant("plain"),
    Variant("every_step", every=1, keep=1),
    Variant("decoders", decoders=1, every=3, weight=1),
    Variant("mixed", recipe=", mix: {mixup: 0.4, cutmix: 0.5}, augment: {random_erasing: 0.3}"),
    Variant("bare", method="none", ema="null", keep=3, recipe=", early_stop: 1"),
    Variant("accumulated", stage=0, recipe=", micro_batch: 4, optimizer: sgd"),
)


class Material:
    """The sets of images below ``folder``, and copies of an empty home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = folder / "shards"
        self._store = folder / "empty" / "mlflow.db"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.shards.is_dir():
            _write_shards(self.shards, folder / "cache")
        if not self._store.exists():
            _make_store(self._store)

    def home(self, name: str, mounted: Callable[[Path], object] | None = None) -> Path:
        """A new home without runs; what was there is removed. ``mounted`` may put a disk there."""
        home = self.folder / "homes" / name
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        if mounted:
            mounted(home)
        (home / "tmp").mkdir()
        shutil.copy(self._store, home / "mlflow.db")
        return home

    def environment(self, home: Path) -> Mapping[str, str]:
        """Of commands that work in a home."""
        return ENVIRONMENT | {"LTM_PLATFORM_HOME": str(home), "TMPDIR": str(home / "tmp")}


def _write_shards(target: Path, cache: Path) -> None:
    """The first digits of both parts; one shard of training images holds 16."""
    from ltm_platform.data.sources.digits import Digits
    from ltm_platform.data.sources.shards import Record, write_shards

    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    sources = Digits("digits", cache).open()
    for split, source, count in zip(
        ("train", "val"), sources, (TRAIN_IMAGES, VAL_IMAGES), strict=True
    ):
        pairs = source.read(range(count))
        size = sum(len(image) for image, _ in pairs)
        records = (Record(image, label, f"{split}/{n}") for n, (image, label) in enumerate(pairs))
        shard_bytes = size // 3 if split == "train" else size
        write_shards(part, split, records, source.classes, shard_bytes=shard_bytes, group_rows=8)
    part.rename(target)


def _make_store(database: Path) -> None:
    """In a process of its own: MLflow would keep the database open."""
    database.parent.mkdir(parents=True, exist_ok=True)
    part = database.with_name("part.db")
    part.unlink(missing_ok=True)
    code = f"from ltm_platform.tracking.store import connect; connect('sqlite:///{part}')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    part.rename(database)
