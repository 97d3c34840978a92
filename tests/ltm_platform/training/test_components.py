"""What a rank trains with follows its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from ltm_platform.job import JobSpec

from .small_run import MODEL, small_job

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import StartRun
    from .small_run import FolderContext


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Folders of the same pictures: upright, and lying on their side with the note of it; on white,
    and with red hidden beneath."""
    exif = Image.Exif()
    exif[274] = 6
    for split in ("train", "val"):
        for number, name in enumerate("ab"):
            layers = Image.new("RGBA", (40, 32), (255, 0, 0, 0))
            layers.paste((0, 0, 90 * number, 255), (0, 0, 20, 9))
            flat = Image.new("RGB", layers.size, "white")
            flat.paste(layers, mask=layers)
            lying = layers.transpose(Image.Transpose.ROTATE_90)
            for folder, picture, options in (
                ("upright", flat, {}),
                ("phone", lying, {"exif": exif}),
            ):
                path = tmp_path / folder / split / name / "1.png"
                path.parent.mkdir(parents=True)
                picture.save(path, **options)  # type: ignore[arg-type]
    return tmp_path


def test_training_and_validation_see_a_picture_as_a_person_does(
    start_run: StartRun, context: FolderContext, pictures: Path
) -> None:
    def seen(folder: str, **fields: Any) -> list[torch.Tensor]:
        data = {"path": str(pictures / folder), "loader_workers": 0, **fields}
        recipe = {"epochs": 1, "global_batch": 2}
        job = JobSpec.from_dict({"model": MODEL, "recipe": recipe, "data": data})
        parts = start_run(job, context).components
        trained, (validated, *_) = (
            next(iter(parts.train_loader.epoch(0))),
            next(iter(parts.val_loader)),
        )
        return [parts.to_network(trained.images, trained.changes), parts.to_network(validated)]

    upright = seen("upright")
    for ours, theirs in zip(seen("phone"), upright, strict=True):
        torch.testing.assert_close(ours, theirs)
    for field in ({"exif": False}, {"background": "hidden"}):
        for ours, theirs in zip(seen("phone", **field), upright, strict=True):
            assert not torch.allclose(ours, theirs, atol=0.1)


def test_a_job_may_take_a_few_batches_of_each_part(
    start_run: StartRun, context: FolderContext
) -> None:
    """48 images to train on are 6 batches, 21 to validate on are 11."""
    recipe = {"epochs": 2, "global_batch": 8, "micro_batch": 2}
    run = start_run(small_job({"model": MODEL, "recipe": recipe}, data__limit_batches=3), context)
    train, val = run.components.train_loader, run.components.val_loader
    assert (train.steps(1), train.steps(2), len(val)) == (3, 6, 3)
    assert sum(int(valid.sum()) for *_, valid in val) == 6
    assert [ended.step for ended in run.train()] == [3, 6]
