"""Cases of damaged files: which kind, and what it is done to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from ..report import Outcome

if TYPE_CHECKING:
    import random

    from ..cases import Case
    from ..material import Material


class Files(Protocol):
    """Files of a kind, and what reads them."""

    def carry_out(self, draw: random.Random, outcome: Outcome) -> None:
        """Damage them, read them, and note what was done and what is wrong."""


KINDS = {"checkpoint": 50, "shard": 40, "picture": 50, "store": 1}
"""How often each is drawn; a store is read by whole commands, which take longer."""


class Damage:
    """Carries out cases; what a kind works on is made when it first comes."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._known: dict[str, Files] = {}
        os.environ["LTM_PLATFORM_HOME"] = str(material.folder / "home")

    def __call__(self, case: Case) -> Outcome:
        draw, outcome = case.draw(), Outcome(size=1)
        (kind,) = draw.choices(list(KINDS), weights=list(KINDS.values()))
        if kind not in self._known:
            self._known[kind] = self._make(kind)
        self._known[kind].carry_out(draw, outcome)
        return outcome

    def _make(self, kind: str) -> Files:
        folder = self._material.folder / f"{kind}s-{os.getpid()}"
        folder.mkdir(exist_ok=True)
        if kind == "shard":
            from .shard_files import ShardFiles

            return ShardFiles(folder, self._material.shards)
        if kind == "picture":
            from .picture_files import PictureFiles

            return PictureFiles(folder)
        if kind == "store":
            from .store_files import StoreFiles

            return StoreFiles(folder, self._material)
        from .checkpoint_files import CheckpointFiles

        return CheckpointFiles(folder, self._material)
