"""Where things lie on the user's machine, and how that is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.storage import locations

if TYPE_CHECKING:
    import pytest


def test_one_variable_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTM_PLATFORM_HOME", "mine")
    assert locations.home() == tmp_path / "mine"
    assert locations.runs() == tmp_path / "mine/runs"
    assert locations.cache() == tmp_path / "mine/cache"


def test_without_it_the_cache_lies_apart_from_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LTM_PLATFORM_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for path in (locations.home(), locations.cache()):
        assert path.is_relative_to(tmp_path)
    assert not locations.cache().is_relative_to(locations.home())


def test_the_users_home_is_a_tilde() -> None:
    assert locations.shown(Path.home() / "runs") == "~/runs"
    assert locations.shown(f"{Path.home()}-else/runs") == f"{Path.home()}-else/runs"
