"""Pictures, drawn by matplotlib; no screen is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ltm_platform.errors import UserError
from ltm_platform.storage.files import check_writable, save_figure, written_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from ltm_platform.report.comparison import Tracked
    from ltm_platform.report.pareto import Measurement
    from ltm_platform.tracking import Point

_PANEL = (5.2, 4.2)  # inches
_SMOOTHED_OVER = 0.02  # of a run's steps


def check_picture(path: Path, option: str) -> None:
    """Raises: UserError: no picture can be written there."""
    check_writable(path, option)
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise UserError(
            f"{option} is {str(path)!r}, but must end with one of {', '.join(sorted(known))}"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a picture whole; its ending names the format."""
    with written_whole(path) as part:
        save_figure(figure, part, dpi=150)


def comparison_figure(runs: Sequence[Tracked]) -> Figure:
    """Top-1 against GMACs, and the losses of training and validation by their steps."""
    figure = Figure(figsize=(3 * _PANEL[0], _PANEL[1]), layout="constrained")
    scatter, training, validation = figure.subplots(1, 3)
    for number, run in enumerate(runs):
        colour, metrics = f"C{number % 10}", run.record.metrics
        gmacs, top1 = metrics.get("model/gmacs"), run.best("val/top1")
        if gmacs is not None and top1 is not None:
            scatter.scatter(gmacs, top1, color=colour, zorder=3)
            scatter.annotate(
                run.record.name,
                (gmacs, top1),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
            )
        _training_loss(training, run, colour)
        losses = run.curves.get("val/loss", ())
        _line(validation, losses, colour, run.record.name, marker="o", markersize=3)
    _label(scatter, "best top-1 against GMACs", "GMACs", "top-1 %")
    _label(training, "training loss", "optimizer step", "loss")
    _label(validation, "validation loss", "optimizer step", "cross-entropy")
    scatter.margins(0.2)
    for axes in (training, validation):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return figure


def pareto_figure(name: str, curves: Mapping[str, Sequence[Measurement]]) -> Figure:
    """Top-1 of one network against GMACs at many ratios, a line for each kind of weights."""
    figure = Figure(figsize=_PANEL, layout="constrained")
    axes = figure.subplots()
    for kind, curve in curves.items():
        points = sorted(curve, key=lambda one: one.gmacs)
        axes.plot([p.gmacs for p in points], [p.top1 for p in points], marker="o", label=kind)
    first = next(iter(curves.values()))
    for one in first:
        axes.annotate(
            f"{one.ratio:g}",
            (one.gmacs, one.top1),
            xytext=(4, -10),
            textcoords="offset points",
            fontsize=8,
        )
    _label(axes, f"{name} at other compression ratios", "GMACs", "top-1 %")
    axes.legend(fontsize=8)
    return figure


def _training_loss(axes: Axes, run: Tracked, colour: str) -> None:
    """Every step thinly, and a running mean over it."""
    losses = run.curves.get("train/loss", ())
    _line(axes, losses, colour, None, alpha=0.2, linewidth=0.8)
    _line(axes, _smoothed(losses), colour, run.record.name)


def _smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of the steps up to each, over a small share of the run."""
    width = max(1, round(_SMOOTHED_OVER * len(points)))
    smooth = []
    total = 0.0
    for number, point in enumerate(points):
        total += point.value
        if number >= width:
            total -= points[number - width].value
        smooth.append(point._replace(value=total / min(number + 1, width)))
    return smooth


def _line(
    axes: Axes, points: Sequence[Point], colour: str, label: str | None, **style: object
) -> None:
    if points:
        steps, values = [p.step for p in points], [p.value for p in points]
        axes.plot(steps, values, color=colour, label=label, **style)  # type: ignore[arg-type]


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
