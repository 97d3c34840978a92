"""A network that MLflow keeps gives the same answers when it comes back."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

import ltm
from ltm_platform.compat.image_loader.classifier import ImageClassifier
from ltm_platform.compat.image_loader.pixels import PixelRule
from ltm_platform.data.decode import decode_rgb
from ltm_platform.data.transforms import eval_resize, eval_transform
from ltm_platform.job import JobSpec
from ltm_platform.tracking import ImageInput, tracked_run

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = ("cat", "dog", "fox")
MEAN, STD = (0.48, 0.45, 0.4), (0.22, 0.23, 0.24)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return ltm.create_model("vit_nano_patch4_32", compression_ratio=0.5, num_classes=3).eval()


@pytest.fixture(scope="module")
def inputs() -> ImageInput:
    return ImageInput(
        32, eval_resize(32), MEAN, STD, exif=True, background="white", classes=CLASSES
    )


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One for all these tests, and the one that MLflow itself uses for the while."""
    folder = tmp_path_factory.mktemp("models")
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="module")
def logged(model: Any, inputs: ImageInput, store: str) -> str:
    """The id of a model, registered as the first version of ``digits``."""
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, "digits-1", Path("/runs/digits-1")) as run:
        for step, top1 in ((44, 90.0), (88, 95.0), (132, 93.0)):
            run.log_metrics({"val/top1": top1}, step=step, time_ms=step)
        run.log_metrics({"model/gmacs": 0.012}, step=0, time_ms=1)
        model_id = run.log_model(model, inputs, step=88)
        run.register_model(model_id, "digits", ["best", "first"])
    return model_id


def photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_the_network_and_its_metrics_come_back(logged: str, model: Any, store: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    for uri in (f"models:/{logged}", "models:/digits@first", "models:/digits/1"):
        loaded = mlflow.pytorch.load_model(uri)
        torch.testing.assert_close(loaded(x), model(x))
    loaded.set_compression(1.0)  # more than an exported graph could do
    loaded.train()(x).sum().backward()
    kept = MlflowClient(store).get_logged_model(logged)
    assert kept.status == "READY"
    assert {m.key: m.value for m in kept.metrics} == {"val/top1": 95.0, "model/gmacs": 0.012}
    # the run's own metrics are not told twice
    history = MlflowClient(store).get_metric_history(kept.source_run_id, "val/top1")
    assert [m.step for m in history] == [44, 88, 132]


def test_pyfunc_takes_images_as_validation_does(
    logged: str, model: Any, inputs: ImageInput, tmp_path: Path
) -> None:
    image = photo(40, 50)
    (tmp_path / "photo.png").write_bytes(encoded(image))
    x = eval_transform(32, MEAN, STD)(image)
    with torch.inference_mode():
        expected = model(x[None]).softmax(1).numpy()
    classify = mlflow.pyfunc.load_model(f"models:/{logged}").predict
    text = base64.b64encode(encoded(image)).decode()
    for data in (
        encoded(image),
        [encoded(image)],
        np.array(image)[None],
        [np.array(image)],
        [image],
        [text],
        [str(tmp_path / "photo.png")],
        pd.DataFrame({"image": [encoded(image)]}),
    ):
        answer = classify(data)
        assert tuple(answer.columns) == inputs.classes
        np.testing.assert_allclose(answer.to_numpy(), expected, rtol=1e-5)
    assert len(classify([image, photo(32, 32), photo(90, 33).convert("L")])) == 3
    with pytest.raises(ValueError, match="is no image"):
        classify([b"no image"])


def test_a_large_image_is_cropped_as_in_validation(model: Any) -> None:
    size = 128
    spec = ImageInput(size, eval_resize(size), MEAN, STD, True, "white", CLASSES)
    classifier = ImageClassifier(model, asdict(spec), "cpu")
    image = photo(200, 170)
    torch.testing.assert_close(
        classifier._prepare(image), eval_transform(size, MEAN, STD)(image), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("rule", [PixelRule(), PixelRule(exif=False, background="hidden")])
def test_pyfunc_shows_pictures_as_the_run_did(model: Any, rule: PixelRule) -> None:
    spec = ImageInput(32, eval_resize(32), MEAN, STD, rule.exif, rule.background, CLASSES)
    classifier = ImageClassifier(model, asdict(spec), "cpu")
    picture = photo(40, 50).convert("RGBA")
    picture.putalpha(photo(40, 50).convert("L"))
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    with torch.inference_mode():
        x = eval_transform(32, MEAN, STD)(decode_rgb(buffer.getvalue(), rule))
        expected = model(x[None]).softmax(1).numpy()
    answer = classifier.predict(buffer.getvalue()).to_numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-5)


ELSEWHERE = """
import sys, mlflow
sys.meta_path.insert(0, type("Absent", (), {"find_spec": staticmethod(
    lambda name, *_: sys.exit(f"{name} is imported") if name == "ltm_platform" else None)}))
print(mlflow.pyfunc.load_model(sys.argv[1]).predict([open(sys.argv[2], "rb").read()]).shape)
import ltm
print(ltm.__file__)
"""


@pytest.mark.slow
def test_a_model_brings_its_code(logged: str, store: str, tmp_path: Path) -> None:
    """Where the platform is not installed."""
    (tmp_path / "photo.png").write_bytes(encoded(photo(32, 32)))
    folder = mlflow.artifacts.download_artifacts(f"models:/{logged}", dst_path=str(tmp_path / "m"))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, folder, str(tmp_path / "photo.png")],
        cwd=tmp_path,
        env={"MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shape, ltm_file = done.stdout.splitlines()
    assert shape == "(1, 3)"
    assert ltm_file.startswith(folder)


def test_aliases_move_to_the_newest_version(
    logged: str, model: Any, inputs: ImageInput, store: str
) -> None:
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, "digits-2", Path("/runs/digits-2")) as run:
        second = run.log_model(model, inputs, step=1)
        assert run.register_model(second, "digits", ["best"]) == "2"
    client = MlflowClient(store)
    assert client.get_model_version_by_alias("digits", "best").version == 2
    assert client.get_model_version_by_alias("digits", "first").version == 1
    tag = client.get_logged_model(logged).tags["mlflow.modelVersions"]
    assert json.loads(tag) == [{"name": "digits", "version": 1}]
