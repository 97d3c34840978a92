"""Who typed what, in which commit, with which versions."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from ltm_platform.job import JobSpec
from ltm_platform.tracking import find_run, tracked_run
from ltm_platform.tracking.provenance import COMMIT_TAG, DIRTY_TAG, VERSIONS_TAG, command_line

if TYPE_CHECKING:
    from pathlib import Path


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_run_says_where_it_comes_from(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ltm-platform", "submit", "my job.yaml"])
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])

    def tags(name: str, **options: str) -> dict[str, str]:
        with tracked_run(job, name, tmp_path / name, **options):
            pass
        return find_run(store, name).tags

    outside = tags("outside")
    assert COMMIT_TAG not in outside
    assert outside["mlflow.source.name"] == "ltm-platform submit 'my job.yaml'"
    assert f"torch {torch.__version__.partition('+')[0]}" in outside[VERSIONS_TAG]
    git(repository, "init", "--quiet")
    (repository / "job.yaml").write_text("a")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "first")
    clean = tags("clean")
    assert clean[COMMIT_TAG] == git(repository, "rev-parse", "HEAD")
    assert clean[DIRTY_TAG] == "false"
    (repository / "job.yaml").write_text("b")
    assert tags("dirty")[DIRTY_TAG] == "true"
    trial = tags("trial", parent=find_run(store, "clean").run_id)
    assert not {COMMIT_TAG, VERSIONS_TAG} & trial.keys()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("tracking.uri=postgresql://me:secret@host/mlflow", "postgresql://***@host/mlflow"),
        ("--tracking-uri=https://token@host:5000", "https://***@host:5000"),
        ("http://u:secret@host", "***@host"),
        ("recipe.lr=1e-3", "recipe.lr=1e-3"),
        ("s3://bucket/runs", "s3://bucket/runs"),
    ],
)
def test_it_keeps_no_secret(word: str, expected: str) -> None:
    line = command_line(["ltm-platform", "submit", "--set", word])
    assert expected in line
    assert "secret" not in line
    assert "token" not in line
    assert line.startswith("ltm-platform submit --set ")
