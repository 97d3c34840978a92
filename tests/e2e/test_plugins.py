"""A method and a source of other packages, as docs/extending.md has them, in a real run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from ltm_platform import tracking

from ..ltm.packages import install_project
from ..ltm.test_extending import BLOCK, SECTIONS
from .conftest import settings
from .pages import block

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli

pytestmark = pytest.mark.slow

CLASSIFY = """
import json, sys
import mlflow.pyfunc, numpy as np
green = np.zeros((32, 32, 3), dtype=np.uint8)
green[..., 1] = 128
found = mlflow.pyfunc.load_model(sys.argv[1]).predict([green])
print(json.dumps([found.idxmax(axis=1)[0], sys.modules["strongest"].__file__]))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages with the examples of the page."""
    folder = tmp_path / "site"
    folder.mkdir()
    method = {path: code for _, path, code in BLOCK.findall(SECTIONS["A method"]) if path}
    install_project(folder, method.pop("pyproject.toml"), method)
    page = "docs/extending.md"
    source = {"squares.py": block(page, "python", "class Squares")}
    install_project(folder, block(page, "toml", 'name = "squares"'), source)
    return folder


def test_a_run_trains_another_packages_method_on_another_packages_images(
    cli: Cli, store: str, site: Path, tmp_path: Path
) -> None:
    overrides = settings(
        "model.method=strongest",
        "data.path=squares",
        "recipe.epochs=2",
        "recipe.warmup_epochs=0",
        "cluster.workers=1",
    )

    done = cli("submit", "quickstart", "--name", "plugged", *overrides, PYTHONPATH=str(site))

    assert done.returncode == 0, done.stdout + done.stderr
    run = tracking.find_run(store, "plugged")
    assert (run.status, run.params["model.method"]) == ("FINISHED", "strongest")
    assert run.metrics["val/top1"] > 90  # three colours
    client = MlflowClient(tracking_uri=store)
    (model,) = client.search_logged_models(
        [client.get_run(run.run_id).info.experiment_id],
        filter_string=f"source_run_id = '{run.run_id}'",
    )
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", CLASSIFY, model.artifact_location],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=kept,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    name, code = json.loads(answer.stdout.splitlines()[-1])
    assert name == "green"
    assert code.startswith(model.artifact_location.removeprefix("file://"))
