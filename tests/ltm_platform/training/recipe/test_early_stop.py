"""Training ends when the accuracy no longer rises."""

from __future__ import annotations

import pytest

from ltm_platform.training.recipe.early_stop import EarlyStop


def epochs_until_due(stop: EarlyStop, scores: list[float]) -> int | None:
    for epoch, score in enumerate(scores, start=1):
        stop.update(score)
        if stop.due:
            return epoch
    return None


@pytest.mark.parametrize(
    ("patience", "scores", "expected"),
    [
        (2, [1, 2, 3, 4], None),
        (2, [1, 3, 2, 2, 9], 4),
        (2, [1, 3, 2, 4, 4, 4, 9], 6),
        (1, [5, 5], 2),
        (None, [5, 4, 3, 2], None),
    ],
)
def test_patience_counts_epochs_without_a_better_score(
    patience: int | None, scores: list[float], expected: int | None
) -> None:
    assert epochs_until_due(EarlyStop(patience), scores) == expected


def test_a_stored_count_goes_on() -> None:
    first, second = EarlyStop(3), EarlyStop(3)
    for score in (50.0, 40.0):
        first.update(score)
    second.load_state_dict(first.state_dict())
    assert epochs_until_due(second, [45.0, 50.0]) == 2
    assert second.best == 50.0
