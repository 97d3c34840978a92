"""The trade-off of a sweep as a picture: accuracy against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ltm_platform.storage.files import save_figure
from ltm_platform.tuning.results import front

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ltm_platform.tuning.objectives import SweepObjective
    from ltm_platform.tuning.results import TrialResult

LABELS = {
    "val/top1": "top-1 (%)",
    "model/gmacs": "GMACs per image",
    "bench/latency_ms": "latency of one image (ms)",
}


def draw_fronts(
    trials: Sequence[TrialResult],
    accuracy: SweepObjective,
    costs: Sequence[SweepObjective],
    path: Path,
) -> None:
    """One panel a cost: all finished trials, and the line of those that no other beats."""
    figure = Figure(figsize=(5 * len(costs), 4), layout="constrained")
    for cost, axes in zip(costs, figure.subplots(1, len(costs), squeeze=False)[0], strict=True):
        done = [
            (x, y)
            for trial in trials
            if trial.state == "finished"
            and (x := cost.of(trial.metrics)) is not None
            and (y := accuracy.of(trial.metrics)) is not None
        ]
        best = front(trials, (accuracy, cost))
        line = [(trial.metrics[cost.metric], trial.metrics[accuracy.metric]) for trial in best]
        if done:
            axes.scatter(*zip(*done, strict=True), color="0.6", label="trial")
            axes.plot(*zip(*line, strict=True), "o-", color="tab:blue", label="Pareto front")
            for trial, point in zip(best, line, strict=True):
                axes.annotate(
                    trial.name,
                    point,
                    xytext=(5, -10),
                    textcoords="offset points",
                    fontsize=8,
                )
            axes.margins(0.15)
            axes.legend()
        axes.set_xlabel(LABELS.get(cost.metric, cost.metric))
        axes.set_ylabel(LABELS.get(accuracy.metric, accuracy.metric))
        axes.grid(visible=True, alpha=0.3)
    save_figure(figure, path, dpi=150)
