"""What a user sees of a job that is tried: its head, its steps, and what they say of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from ltm_platform.cli.screen.console import duration
from ltm_platform.cli.screen.run import Screen, rate

if TYPE_CHECKING:
    from ltm_platform.api import RunBegins, Smoke
    from ltm_platform.storage.run_folder import RunFolder


class SmokeScreen(Screen):
    """A `Screen` of a run in two parts, of which nothing is left."""

    def _begin(self, event: RunBegins) -> None:
        if self._begun is None:
            super()._begin(event)

    def _kept(self, folder: RunFolder) -> None:
        self._console.print(f"{folder.name} is removed but for its log, with its checkpoints")

    def forecast(self, tried: Smoke) -> None:
        """The figures of the whole job."""
        found, checked = tried.forecast, tried.checked
        parts = [f"the network alone {rate(found.network_images_per_s)}"]
        if found.loader_images_per_s is not None:
            parts.append(f"the loader alone {rate(found.loader_images_per_s)}")
        of_what = "GPU's memory" if checked.use_gpu else "memory"
        images, val = len(checked.dataset.train), len(checked.dataset.val)
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_row("training", f"{rate(found.images_per_s)} ({', '.join(parts)})")
        table.add_row("a step", f"{found.step_s:.3g} s for {checked.batch.global_batch} images")
        table.add_row("memory", f"{found.memory_gib:.2f} GiB of a worker's {of_what}")
        table.add_row("validation", f"{duration(found.validation_s)} for {val:,} images")
        table.add_row(
            "whole job",
            f"about {duration(3600 * found.hours)} for {tried.epochs} epochs of {images:,} images",
        )
        self._screen.print()
        self._screen.print(table)
        self._screen.print(
            f"\nit trained, saved, stopped and went on; {tried.name} is removed, with its "
            f"checkpoints and its run in MLflow",
            soft_wrap=True,
        )
