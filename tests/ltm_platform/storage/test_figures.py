"""An interrupt while a figure is drawn is raised once it is drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ltm_platform.storage.files import save_figure

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_interrupt_leaves_a_whole_picture(interrupt: Callable[[], None]) -> None:
    class Interrupted(Text):
        def draw(self, renderer: Any) -> None:
            interrupt()
            super().draw(renderer)

    figure, drawn = Figure(), io.BytesIO()
    figure.add_artist(Interrupted(0.5, 0.5, "x"))
    with pytest.raises(KeyboardInterrupt):
        save_figure(figure, drawn, format="png")
    Image.open(drawn).load()
