"""When to stop before the last epoch: no better accuracy for too long."""

from __future__ import annotations


class EarlyStop:
    """Counts epochs without a better score. Equal scores on all ranks give equal answers.

    patience: epochs without a better score after which training ends; None never ends it.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self.best = float("-inf")
        self.epochs_since = 0

    def update(self, score: float) -> None:
        """The score of one more epoch; higher is better."""
        self.epochs_since = 0 if score > self.best else self.epochs_since + 1
        self.best = max(self.best, score)

    @property
    def due(self) -> bool:
        return self._patience is not None and self.epochs_since >= self._patience

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"best": self.best, "epochs_since": self.epochs_since}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.epochs_since = state["best"], int(state["epochs_since"])
