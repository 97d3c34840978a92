"""What the doctor finds fine, what not, and what it says to type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.checks import doctor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ltm_platform.checks.doctor import Finding


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user with nothing set."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "ltm"))
    return tmp_path / "ltm"


def programs(folder: Path, *names: str) -> str:
    """A search path on which these programs are, and no others."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return str(folder)


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor.python()).fine
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (4, 2))
    finding = only(doctor.python())
    assert (finding.fine, finding.remedy) == (False, "install Python 4.2 or newer")


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    torch, missing = doctor.packages()
    assert torch.fine
    assert (missing.what, missing.fine, missing.found) == (
        "no-such-package",
        False,
        "not installed",
    )
    assert missing.remedy == "pip install no-such-package -c constraints.txt"


def test_no_gpu_is_fine_but_one_that_torch_does_not_see_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", programs(tmp_path / "without"))
    finding = only(doctor.gpus())
    assert finding.fine
    assert finding.found == "none: training runs on the CPU, over gloo"
    monkeypatch.setenv("PATH", programs(tmp_path / "with", "nvidia-smi"))
    finding = only(doctor.gpus())
    assert not finding.fine
    assert finding.found == "there is a driver, but torch sees none"
    assert "nvidia-smi" in finding.remedy


def test_the_compiler_is_told_and_none_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", programs(tmp_path / "with", "g++"))
    assert only(doctor.compiler()).found == str(tmp_path / "with" / "g++")
    monkeypatch.setenv("PATH", programs(tmp_path / "without"))
    finding = only(doctor.compiler())
    assert finding.fine
    assert "engine.compile" in finding.found


def test_without_a_cluster_every_command_has_its_own_ray(home: Path) -> None:
    finding = only(doctor.cluster())
    assert finding.fine
    assert "every command starts its own Ray" in finding.found
    assert not home.exists()


def test_a_cluster_that_does_not_answer_is_told(
    home: Path,  # noqa: ARG001 - the environment
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    finding = only(doctor.cluster())
    assert not finding.fine
    assert "no Ray cluster answers at http://127.0.0.1:1" in finding.found
    assert finding.remedy == "start it, or unset RAY_ADDRESS"


def test_a_store_of_ones_own_is_fine_and_one_that_is_away_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = only(doctor.mlflow())
    assert finding.fine
    assert finding.found == f"sqlite:///{home}/mlflow.db, 0 runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:sesame@127.0.0.1:1")
    finding = only(doctor.mlflow())
    assert not finding.fine
    assert "sesame" not in finding.found
    assert finding.remedy == "mlflow server, or unset MLFLOW_TRACKING_URI"


def test_a_full_disk_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 0)
    assert all(finding.fine for finding in doctor.storage())
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 2**60)
    disk, _, memory = doctor.storage()
    assert not disk.fine
    assert disk.found.startswith(f"{home}, ")
    assert disk.remedy == "LTM_PLATFORM_HOME=FOLDER moves runs, store and cache"
    assert not memory.fine
    assert "--shm-size" in memory.remedy


def test_what_breaks_while_it_is_looked_at_is_not_fine(
    home: Path,  # noqa: ARG001 - the environment
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere at all")
    findings = list(doctor.examine())
    (broken,) = [finding for finding in findings if finding.what == "cluster"]
    assert not broken.fine
    assert "'nowhere at all'" in broken.found
    assert findings[-1].what == "memory", "what comes after is looked at, too"
