"""What is installed, what is importable from where, and what runs without installing."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_two_packages_and_no_stray_module(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ltm", "ltm_platform"}
    assert "ltm_platform/jobs/quickstart.yaml" in names
    assert "ltm_platform/py.typed" in names  # type checkers of users read our annotations


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_wheel_names_every_python_that_is_tested(wheel: Path, python: str) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    text = archive.read(name).decode()
    assert f"Classifier: Programming Language :: Python :: {python}\n" in text


def requirements(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What this package asks for on this interpreter, with the extras that it asks for."""
    for line in metadata.requires(name) or ():
        wanted = Requirement(line)
        marker = wanted.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield canonicalize_name(wanted.name), frozenset(wanted.extras)


def test_what_make_installs_is_pinned() -> None:
    pins = {
        canonicalize_name(Requirement(line).name)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    seen: set[tuple[str, frozenset[str]]] = set()
    ahead = [("ltm-platform", frozenset({"dev"}))]
    while ahead:
        package = ahead.pop()
        if package not in seen:
            seen.add(package)
            ahead += requirements(*package)
    assert {name for name, _ in seen} - pins == {"ltm-platform"}


def test_the_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ltm_platform.cli.app import main; main()",
            "validate",
            "quickstart",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "path: digits" in done.stdout


@pytest.mark.parametrize("path", [None, "."])
def test_the_standard_library_keeps_its_platform(path: str | None) -> None:
    environment = os.environ | ({"PYTHONPATH": str(ROOT)} if path else {})
    script = "import platform, torch; print(platform.__file__); platform.system()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stdout.startswith(str(ROOT))
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_a_bare_checkout_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        # -S leaves out site-packages' .pth files, so the editable install is not found
        [sys.executable, "-S", str(ROOT / "cli.py"), "validate", "quickstart"],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if "site-packages" in p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "path: digits" in done.stdout
