"""The token is this user's alone."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ltm_platform.ray_cluster import auth_token

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token of a new user is going to be."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def mode_of(file: Path) -> str:
    return oct(stat.S_IMODE(file.stat().st_mode))


def test_a_new_token_can_be_read_by_its_user_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        assert auth_token.ensure_token() == ()
    finally:
        os.umask(before)
    assert mode_of(file) == "0o600"
    assert len(file.read_text()) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"
    first = file.read_text()
    assert auth_token.ensure_token() == ()
    assert file.read_text() == first
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_can_read_is_closed_and_that_is_said(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    auth_token.ensure_token()
    file.chmod(0o644)
    (notice,) = auth_token.ensure_token()
    assert "other users could read ~/.ray/auth_token" in notice
    assert mode_of(file) == "0o600"
    file.chmod(0o640)
    auth_token.use_token()
    assert "other users could read" in caplog.text
    assert mode_of(file) == "0o600"


def test_where_none_can_be_stored_the_token_is_the_commands_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert auth_token.ensure_token() == ()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(("name", "value"), [("MODE", "disabled"), ("TOKEN", "f" * 64)])
def test_none_is_made_where_the_user_has_decided(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"RAY_AUTH_{name}", value)
    assert auth_token.ensure_token() == ()
    assert not file.exists()


def test_the_token_is_where_the_user_says(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert auth_token.token_file() == file
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert auth_token.token_file() == tmp_path / "token"


@pytest.mark.parametrize("known", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "a file"])
def test_a_user_who_has_a_token_shows_it(
    known: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth_token.use_token()
    assert "RAY_AUTH_MODE" not in os.environ
    if known == "a file":
        file.parent.mkdir()
        file.touch(0o600)
    else:
        monkeypatch.setenv(known, "x")
    auth_token.use_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    auth_token.use_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
