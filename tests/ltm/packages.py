"""Packages of other people, as an installer leaves them, for a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install(
    folder: Path, name: str, files: dict[str, str], groups: dict[str, dict[str, str]]
) -> None:
    """Write a distribution of that name into a folder that will be on sys.path."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def install_project(folder: Path, pyproject: str, files: dict[str, str]) -> None:
    """The same, as a pyproject.toml says it."""
    project = tomllib.loads(pyproject)["project"]
    install(folder, project["name"], files, project["entry-points"])


def run(folder: Path, code: str) -> str:
    """Standard output of a fresh process that has what is installed in the folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
