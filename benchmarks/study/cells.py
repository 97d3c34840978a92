"""What is to be run: a cell is one network on one set, in the order in which they matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BACKBONE, SIDE = "vit_nano_patch4_32", 32
OFF_THE_SHELF = "off-the-shelf"
REGIMES = (OFF_THE_SHELF, "calibrated", "fine-tuned")
"""In which LTM is compared; what is from scratch is a base or a control."""
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ltm alike": ("ltm", {"start": "alike"}),
    "ltm alike constant": ("ltm", {"start": "alike", "schedule": "constant"}),
}
"""Methods with options; any other name is that of a method by its defaults."""
OURS = ("ltm", *VARIANTS)
WITHOUT_IB = "ltm without IB"
"""LTM with the bottleneck's statistics, but not its bound in the loss."""
_SETTINGS = {**VARIANTS, WITHOUT_IB: ("ltm", {})}
RIVALS = ("tome", "ltmp", "mctf", "sit", "topk", "random")
UNTRAINED = ("ltm", "tome", "mctf", "topk", "random")
"""What can be put on a trained network as it is."""
PARTS = (0.65, 0.8, 0.5)
SEEDS = (0, 1, 2, 3, 4)
CORE_SETS = ("mnist", "clipart")


@dataclass(frozen=True, order=True)
class Cell:
    """One network: of a method at a part of the base's MACs.

    The base is the network without merging, from scratch. The other regimes begin with its weights.
    """

    data: str
    regime: str
    method: str
    part: float
    seed: int

    @property
    def name(self) -> str:
        words = (self.data, self.regime, self.method, f"{self.part:g}", f"s{self.seed}")
        return "-".join(words).replace(" ", "-").replace(".", "_").lower()


def base(data: str, seed: int) -> Cell:
    return Cell(data, "from scratch", "none", 1.0, seed)


def cells(sets: tuple[str, ...], seeds: tuple[int, ...], parts: tuple[float, ...]) -> list[Cell]:
    """Every regime and method; for each seed and part all of them before the next, bases first.

    Variants of LTM are screened: at the first part, with the first seed alone.
    """
    found: list[Cell] = []
    for part in parts:
        for seed in seeds:
            screening = (part, seed) == (PARTS[0], SEEDS[0])
            for data in sets:
                found.append(base(data, seed))
                found += [Cell(data, OFF_THE_SHELF, method, part, seed) for method in UNTRAINED]
                found.append(Cell(data, "calibrated", "ltm", part, seed))
                found += [
                    Cell(data, "fine-tuned", method, part, seed)
                    for method in ("none", *(OURS if screening else ("ltm",)), *RIVALS)
                ]
                if part == PARTS[0]:
                    found.append(Cell(data, "fine-tuned", WITHOUT_IB, part, seed))
                found.append(Cell(data, "from scratch", "smaller", part, seed))
    return list(dict.fromkeys(found))


def job(cell: Cell, path: str, budget: float, start: str | None) -> dict[str, Any]:
    """The job of a cell that trains. budget: GMACs. start: the base's weights."""
    tuned = cell.regime != "from scratch"
    epochs = max(1, EPOCHS[cell.data] // 3) if tuned else EPOCHS[cell.data]
    method, options = _SETTINGS.get(cell.method, (cell.method, {}))
    model: dict[str, Any] = {"backbone": BACKBONE, "image_size": SIDE, "method": method}
    model["options"] = options
    if method != "none":
        model["target_gmacs"] = budget
    if tuned:
        model["checkpoint"] = start
    recipe: dict[str, Any] = {
        "epochs": epochs,
        "global_batch": 64,
        "lr": 5e-4 if tuned else 2e-3,
        "warmup_epochs": 0 if tuned else min(1, epochs - 1),
        "seed": cell.seed,
        "augment": {"hflip": 0.0, "crop_scale": [0.7, 1.0]},
        "ib": {"weight": 0.1 if method == "ltm" and cell.method != WITHOUT_IB else 0.0},
    }
    if cell.regime == "calibrated":
        model["options"] = {"start": "alike", "pool_by_size": True}
        recipe |= {
            "lr": 1e-2,
            "ib": {"weight": 0.0},
            "backbone": {"frozen_epochs": epochs},
            "distill": {"teacher": "itself", "labels": 0.0, "weight": 1.0, "features": 1.0},
        }
    return {
        "name": cell.name,
        "model": model,
        "data": {"path": path, "loader_workers": 0},
        "recipe": recipe,
        "engine": {"zero_stage": 0},
        "cluster": {"workers": 1},
        "tracking": {"log_model": False},
    }


EPOCHS = {"mnist": 12, "clipart": 24, "glyphs": 12, "digits": 1}
