"""What a node says of the storage that all nodes are to share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.ray_cluster.attach import probe
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["a folder", "an object store"])
def test_a_node_that_sees_the_others_file_answers_with_one_of_its_own(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path / "runs")
    if kind == "an object store":
        root = f"{request.getfixturevalue('bucket')}/runs"
    (storage_path(root) / "theirs").write(b"")
    assert probe(root, "theirs", "me") is None
    assert (storage_path(root) / "theirs.me").is_file()


def test_a_node_with_another_folder_or_none_says_so(tmp_path: Path) -> None:
    assert probe(str(tmp_path), "theirs", "me") == "it is not shared"
    assert probe(str(tmp_path / "none"), "theirs", "me") == f"there is no {tmp_path / 'none'}"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_let_the_node_in_is_told(bucket: str) -> None:
    answer = probe(f"{bucket}-else/runs", "theirs", "me")
    assert answer
    assert "bucket" in answer
