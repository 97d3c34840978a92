"""What a sweep is refused for before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform import api

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _a_user_with_nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))


def refusal(*params: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(api.UserError) as error:
        api.tune("quickstart", params, overrides=overrides, address="local")
    (line,) = str(error.value).splitlines()
    return line


def test_a_sweep_over_backbones_does_not_train_one_at_the_size_of_another(tmp_path: Path) -> None:
    line = refusal("model.backbone=choice:vit_nano_patch4_32,vit_small_patch16_224")
    assert "model.image_size is 32, which is for vit_nano_patch4_32" in line
    assert "the own size of vit_small_patch16_224 is 224" in line
    assert not (tmp_path / "home").exists()


def test_a_job_that_mixes_files_is_refused_in_a_sweep_as_in_a_submit() -> None:
    line = refusal("lr", overrides=("model.backbone=vit_small_patch16_224",))
    assert "model.image_size is 32, which is for vit_nano_patch4_32" in line


def test_a_budget_that_varies_takes_the_place_of_the_ratio() -> None:
    line = refusal("model.target_gmacs=grid:0.01,1e30")
    assert "model.target_gmacs is 1e+30, but must be greater than 0 and at most 1000000" in line
