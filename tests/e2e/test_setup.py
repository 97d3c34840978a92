"""Setting up: what is missing is said before anything is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(
    checkout: Path, python: str, path: Path, target: str = "test"
) -> subprocess.CompletedProcess[str]:
    """``make`` with nothing on PATH but what it is given."""
    program = shutil.which("make")
    assert program
    return subprocess.run(
        [program, target, f"PYTHON={python}"],
        cwd=checkout,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def tools(folder: Path, *names: str) -> Path:
    """A folder with these programs alone."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return folder


def test_an_old_python(checkout: Path) -> None:
    old = checkout / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" || exit 1\n')
    old.chmod(0o755)
    done = make(checkout, str(old), tools(checkout / "bin", "sh"))
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (checkout / ".venv").exists()
    assert not list(checkout.glob(".venv*"))


def test_no_such_python(checkout: Path) -> None:
    done = make(checkout, "python3.99", tools(checkout / "bin", "sh"))
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, but python3.99 is missing" in done.stderr
    assert not list(checkout.glob(".venv*"))


def interpreter(folder: Path, version: str) -> Path:
    """Answers to what the Makefile asks of an interpreter; its environments install nothing, and
    say in ``installs`` how often they were asked to."""
    python = folder / f"python{version}"
    python.write_text(
        f"""#!/bin/sh
case "$*" in
  *print*) echo {version} ;;
  "-m venv --clear "*)
    rm -rf "$4" && mkdir -p "$4/bin"
    printf '#!/bin/sh\\necho {version} >> installs\\n' > "$4/bin/pip"
    chmod +x "$4/bin/pip" ;;
esac
"""
    )
    python.chmod(0o755)
    return python


class Switching:
    """A checkout with two interpreters, of which ``make venv`` is given one at a time."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.path = tools(checkout / "bin", "sh", "rm", "mkdir", "chmod", "touch", "ln", "readlink")
        self.pythons = {v: str(interpreter(self.path, v)) for v in ("3.12", "3.13")}

    def make(self, version: str) -> str:
        done = make(self.checkout, self.pythons[version], self.path, target="venv")
        assert done.returncode == 0, done.stderr
        return done.stderr

    @property
    def installs(self) -> list[str]:
        return (self.checkout / "installs").read_text().split()

    @property
    def used(self) -> str:
        return str((self.checkout / ".venv").readlink())


@pytest.fixture
def switching(checkout: Path) -> Switching:
    return Switching(checkout)


def test_each_version_keeps_its_environment(switching: Switching) -> None:
    switching.make("3.12")
    assert switching.used == ".venv-3.12"
    switching.make("3.13")
    assert switching.used == ".venv-3.13"
    switching.make("3.12")
    assert switching.used == ".venv-3.12"
    assert switching.installs == ["3.12", "3.13"]


def test_an_environment_that_is_gone_is_built_again(switching: Switching) -> None:
    switching.make("3.12")
    shutil.rmtree(switching.checkout / ".venv-3.12")
    switching.make("3.12")
    assert switching.installs == ["3.12", "3.12"]


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_make_every_environment_stale(switching: Switching, file: str) -> None:
    switching.make("3.12")
    switching.make("3.13")
    changed = (switching.checkout / file).stat().st_mtime
    for installed in switching.checkout.glob(".venv-*/.installed"):
        os.utime(installed, (changed - 1, changed - 1))
    for version in ("3.13", "3.12", "3.13"):
        switching.make(version)
    assert switching.installs == ["3.12", "3.13", "3.13", "3.12"]


def test_a_folder_in_place_of_the_link_is_kept(switching: Switching) -> None:
    (switching.checkout / ".venv").mkdir()
    (switching.checkout / ".venv" / "mine").touch()
    assert "remove it" in switching.make("3.12")
    assert (switching.checkout / ".venv" / "mine").exists()
    assert [path.name for path in (switching.checkout / ".venv").iterdir()] == ["mine"]
    assert switching.installs == ["3.12"]
