"""What is installed, what is importable from where, and what runs without installing."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
