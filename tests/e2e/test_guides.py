"""docs/architecture.md names what there is, and the examples of docs/extending.md work."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
import torch

import ltm_platform.cli.commands as commands_package
from ltm import plugins
from ltm_platform.cli import app
from ltm_platform.data import open_data
from ltm_platform.data.loader import Loader
from ltm_platform.data.pixels.exact import ExactTraining
from ltm_platform.data.sources import find_source
from ltm_platform.data.transforms import Augmentation
from ltm_platform.job import JobSpec

from .pages import ROOT, block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "platform/ltm_platform"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
EXTENDING = "docs/extending.md"


# --- architecture


@pytest.fixture(scope="module")
def house() -> dict:
    """What docs/figures/house.py defines."""
    return runpy.run_path(str(ROOT / "docs/figures/house.py"))


def test_the_picture_shows_the_contract(house: dict) -> None:
    """Else: python docs/figures/house.py."""
    assert house["PICTURE"].read_text() == house["house"]()


def test_the_rooms_are_those_of_the_package_and_the_page(house: dict) -> None:
    rooms = [room for layer in house["layers"]() for room in layer]
    here = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    here |= {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert set(rooms) == here | {"ltm"}
    assert list(house["purposes"]()) == rooms


def _defined(file: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, kinds)}


@pytest.mark.parametrize(("file", "name"), re.findall(r"`([\w/]+\.py)`: `(\w+)`", ARCHITECTURE))
def test_a_function_on_the_way_of_a_run_is_where_the_page_says(file: str, name: str) -> None:
    assert name in _defined(PACKAGE / file)


def test_files_of_the_page_exist() -> None:
    for file in re.findall(r"`([\w./]+\.py)`", ARCHITECTURE):
        assert (PACKAGE / file).exists() or (ROOT / file).exists() or file == "__init__.py", file


# --- extending


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the page, as pip would have installed it."""
    (tmp_path / "squares.py").write_text(block(EXTENDING, "python", "class Squares(DataSource)"))
    project = tomllib.loads(block(EXTENDING, "toml", "squares"))["project"]
    about = tmp_path / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._points.cache_clear()
    yield
    plugins._points.cache_clear()
    sys.modules.pop("squares", None)


@pytest.mark.usefixtures("squares")
def test_a_source_of_another_package_is_read_by_the_loader(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["data.path=squares", "data.val_fraction=0.1"])
    dataset = open_data(job.data, cache=tmp_path)
    assert dataset.describe() == "squares: 270 training and 30 validation images, 3 classes"
    assert find_source("squares", tmp_path).class_names() == dataset.classes

    loader = Loader(
        dataset.val,
        ExactTraining(Augmentation(), 32, (0.0,) * 3),
        micro_batch=15,
        accumulation=1,
        rank=0,
        world_size=1,
        seed=0,
        workers=1,  # the images are pickled
    )
    labels = []
    for images, of_batch, _ in loader.epoch(0):
        labels += of_batch.tolist()
        assert torch.equal(images.float().mean((2, 3)).argmax(1), of_batch)
    loader.close()
    assert sorted(labels) == [0] * 10 + [1] * 10 + [2] * 10


def test_a_verb_is_a_file_and_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cost.py").write_text(block(EXTENDING, "python", '@click.command("cost")'))
    monkeypatch.setattr(commands_package, "__path__", [*commands_package.__path__, str(tmp_path)])
    monkeypatch.setattr(app, "COMMANDS", (*app.COMMANDS, "cost"))
    monkeypatch.delitem(sys.modules, "ltm_platform.cli.commands.cost", raising=False)
    prompt, answer = block(EXTENDING, "", "$ ltm-platform cost").splitlines()
    app.main(prompt.split()[2:])
    assert capsys.readouterr().out.strip() == answer
    with pytest.raises(SystemExit) as end:
        app.main(["cost", "quickstart", "--set", "model.backbone=vit"])
    assert end.value.code == 2


def test_a_job_field_is_three_edits(tmp_path: Path) -> None:
    """The patch of the page on a copy of the packages: `validate` shows the field, a wrong value is
    one sentence, and the tests of the page pass."""
    for folder in ("platform", "ltm", "jobs"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "cli.py", tmp_path)
    for file, hunk in re.findall(
        r"^--- (.*)\n((?:[ +].*\n)+)", block(EXTENDING, "diff", "beta2"), re.MULTILINE
    ):
        _apply(tmp_path / file, hunk)

    shown = _python(tmp_path, "cli.py", "validate", "quickstart", "--set", "recipe.beta2=0.95")
    assert shown.returncode == 0, shown.stderr
    assert "  beta2: 0.95\n" in shown.stdout
    wrong = _python(tmp_path, "cli.py", "validate", "quickstart", "--set", "recipe.beta2=1")
    assert wrong.returncode == 2
    assert "recipe.beta2 is 1, but must be greater than 0 and less than 1" in wrong.stderr

    (tmp_path / "test_beta2.py").write_text(block(EXTENDING, "python", "def test_beta2"))
    tested = _python(tmp_path, "-m", "pytest", "-q", "test_beta2.py")
    assert tested.returncode == 0, tested.stdout


def _apply(file: Path, hunk: str) -> None:
    """A hunk without line numbers: its context must stand in the file once."""
    lines = hunk.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] == " ")
    text = file.read_text()
    assert text.count(before) == 1, f"{file.name} has no longer:\n{before}"
    file.write_text(text.replace(before, "".join(line[1:] for line in lines)))


def _python(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(checkout), str(checkout / "platform")])
    return subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
