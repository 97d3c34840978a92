"""One network at many ratios."""

from __future__ import annotations

from ltm_platform.inference.evaluate import Score
from ltm_platform.report import pareto
from ltm_platform.report.figures import pareto_figure


def score(kind: str, ratio: float, gmacs: float, top1: float) -> Score:
    return Score(kind, ratio, gmacs, top1, 99.0, 0.5, 100)


SCORES = [
    score("weights", 1.0, 2.0, 90.0),
    score("weights", 0.5, 1.0, 80.0),
    score("weights", 0.75, 1.5, 79.0),
    score("EMA", 0.5, 1.0, 81.0),
]


def test_the_ratios_span_what_was_trained() -> None:
    assert pareto.ratios((0.4, 1.0), 3) == [0.4, 0.7, 1.0]
    assert pareto.ratios(None, 2) == [0.5, 1.0]
    assert pareto.ratios((0.7, 0.7), 4) == [0.7]


def test_a_point_that_another_beats_is_not_on_the_front() -> None:
    curves = pareto.curves(SCORES)
    assert [(one.ratio, one.best) for one in curves["weights"]] == [
        (0.5, True),
        (0.75, False),
        (1.0, True),
    ]
    assert [one.best for one in curves["EMA"]] == [True]


def test_the_ratio_in_permille_is_the_step() -> None:
    steps = pareto.metrics(pareto.curves(SCORES))
    assert list(steps) == [500, 750, 1000]
    assert steps[500]["top1"] == 80.0
    assert steps[500]["ema_top1"] == 81.0
    assert steps[750]["gmacs"] == 1.5
    assert "ema_top1" not in steps[750]


def test_a_line_is_drawn_for_each_kind_of_weights() -> None:
    (axes,) = pareto_figure("one", pareto.curves(SCORES)).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[1.0, 1.5, 2.0], [1.0]]
    assert [text.get_text() for text in axes.texts] == ["0.5", "0.75", "1"]
