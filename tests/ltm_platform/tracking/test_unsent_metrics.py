"""Rows that could not be recorded are kept until they can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow.entities import Metric, RunTag

from ltm_platform.errors import UserError
from ltm_platform.tracking import unsent_metrics

if TYPE_CHECKING:
    from pathlib import Path


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [Metric("train/loss", 0.5, 1001, 3), RunTag("ltm.micro_batch", "8")]
    path = unsent_metrics.save(rows, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert [dict(row) for row in unsent_metrics.load(tmp_path)] == [dict(row) for row in rows]
    assert [type(row) for row in unsent_metrics.load(tmp_path)] == [Metric, RunTag]
    unsent_metrics.remove(tmp_path)
    assert unsent_metrics.load(tmp_path) == []
    unsent_metrics.remove(tmp_path)


@pytest.mark.parametrize("content", ["", "[", "null", "[7]", '[{"step": 1}]', "\xff"])
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, content: str) -> None:
    path = unsent_metrics.save([], tmp_path)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"{path} is damaged"):
        unsent_metrics.load(tmp_path)
    assert path.exists()
