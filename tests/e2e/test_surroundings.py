"""A run where little is as it is elsewhere."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ltm_platform import tracking

from .conftest import command_line

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_a_run_needs_no_home_no_proxy_and_no_unicode(
    environment: dict[str, str], tmp_path: Path, empty_store: Path, tiny_job: Path
) -> None:
    """The user's home is read-only, where a token cannot be stored; that of the runs has spaces and
    letters that the terminal does not know; all proxies are down."""
    home = tmp_path / "meine Läufe (größte)"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    nowhere = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://[::1]:9"
    )
    odd = nowhere | {
        "HOME": "/sys",
        "LTM_PLATFORM_HOME": str(home),
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "RAY_AUTH_MODE": "token",
    }
    call = command_line(environment | odd, tmp_path)
    done = call("submit", str(tiny_job), "--name", "odd", "--set", "recipe.epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert tracking.find_run(f"sqlite:///{home}/mlflow.db", "odd").status == "FINISHED"
    listed = call("list")
    assert "FINISHED" in listed.stdout
