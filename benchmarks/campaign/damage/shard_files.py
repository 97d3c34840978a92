"""Damaged shards: `data check` finds them, and reading gives what was written or a sentence."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ltm_platform.data import open_dataset
from ltm_platform.data.importing import import_images
from ltm_platform.data.inspection import check_data
from ltm_platform.errors import UserError

from .changes import any_of, change, change_json, linked, replace, swap
from .verdict import judge

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from ltm_platform.data import Dataset

    from ..report import Outcome

Content = list[tuple[bytes, int]]


class ShardFiles:
    """Two imported sets of images; each case damages a copy of the first."""

    def __init__(self, folder: Path, digits: Path) -> None:
        self._folder = folder
        self._cache = folder / "cache"
        self._bases = [folder / name for name in ("first", "second")]
        for number, base in enumerate(self._bases):
            if not base.exists():
                tree = folder / f"tree{number}"
                _write_tree(tree, digits, number)
                import_images(str(tree), str(base), shard_bytes=2_000)
        self._content = _read(
            open_dataset(str(self._bases[0]), cache=self._cache, val_fraction=0.2)
        )
        assert not check_data(str(self._bases[0])).problems

    def carry_out(self, draw: random.Random, outcome: Outcome) -> None:
        """Damage a copy, and read it."""
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        linked(self._bases[0], copy)
        done = self._damaged(draw, copy)
        outcome.story.append(done)
        outcome.counts[f"shards: {done.split()[0]}"] += 1

        def checked() -> None:
            problems = check_data(str(copy)).problems
            if problems:
                raise UserError(problems[0])

        if judge(checked, outcome, "data check") is not None:
            outcome.faults.append(f"data check calls a data set in order after: {done}.")

        def content() -> Content:
            return _read(open_dataset(str(copy), cache=self._cache, val_fraction=0.2))

        found = judge(content, outcome, "reading shards")
        if found is not None and found != self._content:
            outcome.faults.append(f"other images or labels are read after: {done}.")

    def _damaged(self, draw: random.Random, copy: Path) -> str:
        shards = list(copy.rglob("*.parquet"))
        file = any_of(draw, [*shards, copy / "report.json"])
        kind = draw.choice(["bytes"] * 6 + ["delete", "swap", "over", "foreign", "splits"])
        name = file.relative_to(copy)
        if kind == "delete":
            file.unlink()
            return f"delete {name}"
        if kind == "splits":
            (copy / "train").rename(copy / "other")
            (copy / "val").rename(copy / "train")
            (copy / "other").rename(copy / "val")
            return "splits exchanged"
        if kind in ("swap", "over") and file in shards:
            other = any_of(draw, [path for path in shards if path != file])
            if kind == "swap":
                swap(file, other)
            else:
                replace(file, other.read_bytes())
            return f"{kind} {name} with {other.relative_to(copy)}"
        if kind == "foreign":
            others = list(self._bases[1].rglob("*.parquet" if file in shards else "report.json"))
            other = any_of(draw, others)
            replace(file, other.read_bytes())
            return f"foreign {other.relative_to(self._bases[1])} as {name}"
        data = file.read_bytes()
        edited = change_json(draw, data) if file not in shards and draw.random() < 0.5 else None
        what, changed = edited or change(draw, data)
        replace(file, changed)
        return f"{what.split()[0]} in {name} ({what})"


def _write_tree(tree: Path, digits: Path, number: int) -> None:
    """Some of the digits as a folder a class, under train and val."""
    dataset = open_dataset(str(digits), cache=tree, val_fraction=0.2)
    for split, images in (("train", dataset.train), ("val", dataset.val)):
        for index, (data, label) in enumerate(images.read(range(len(images)))):
            if index % 2 == number or split == "val":
                file = tree / split / str(label) / f"{number}-{index:03d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
    for label in range(10):  # every class is in both
        for split in ("train", "val"):
            folder = tree / split / str(label)
            if not folder.exists():
                folder.mkdir(parents=True)
                (folder / "some.png").write_bytes(next(tree.rglob("*.png")).read_bytes())


def _read(dataset: Dataset) -> Content:
    return [
        pair for images in (dataset.train, dataset.val) for pair in images.read(range(len(images)))
    ]
