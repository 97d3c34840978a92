"""A damaged mlflow.db: every command that reads it works, or refuses in a sentence."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from .. import one_process
from ..kills import Run, last_line
from ..material import NAME, VARIANTS
from .changes import change, replace
from .checkpoint_files import STOPPED

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from ..material import Material
    from ..report import Outcome

COMMANDS = (["runs"], ["resume", NAME], ["reconcile"], ["list"])


class StoreFiles:
    """The store of a run that was stopped; each case damages a copy of it."""

    def __init__(self, folder: Path, material: Material) -> None:
        one_process.load()
        self._material = material
        self._run = Run(material, VARIANTS[0], f"store-{folder.name}")
        ended = self._run.command("submit", STOPPED)
        assert ended.code == 130, ended.output
        self._whole = (self._run.home / "mlflow.db").read_bytes()
        self._kept = folder / "runs"
        shutil.copytree(self._run.home / "runs", self._kept)

    def carry_out(self, draw: random.Random, outcome: Outcome) -> None:
        """Damage the store, and give a command that reads it."""
        home = self._run.home
        shutil.rmtree(home / "runs")
        shutil.copytree(self._kept, home / "runs")
        for rest in home.glob("mlflow.db-*"):
            rest.unlink()
        done, data = change(draw, self._whole)
        replace(home / "mlflow.db", data)
        words = draw.choice(COMMANDS)
        outcome.counts[f"store: {done}"] += 1
        ended = one_process.run(words, self._material.environment(home), home.with_suffix(".out"))
        outcome.story.append(f"{done} in mlflow.db, {' '.join(words)}: {ended.code}")
        outcome.story.append(ended.output[-2000:])
        if "Traceback (most recent call last)" in ended.output:
            outcome.faults.append(f"a damaged store: a traceback, {last_line(ended)[:200]}")
        elif ended.code not in (0, 1, 2):
            outcome.faults.append(f"a damaged store: exit code {ended.code}, {last_line(ended)}")
