"""Which files travel to a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import code_upload

if TYPE_CHECKING:
    from pathlib import Path


def test_the_code_goes_without_data_and_stores(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("a.py", "sub/b.py", "sub/table.yaml", "__pycache__/a.pyc", "mlruns/1/meta.yaml"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("x")
    for name in ("weights.safetensors", "images.tar", "mlflow.db", "photo.JPG"):
        (code / name).write_text("x")
    (code / "link.py").symlink_to("/etc/passwd")
    found = [str(file.to) for file in code_upload.code_files([code])]
    assert found == ["code/a.py", "code/sub/b.py", "code/sub/table.yaml"]


def test_too_much_code_is_refused_with_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_upload, "LARGEST_BYTES", 3 << 20)
    for number in range(7):
        (tmp_path / f"{number}.bin").write_bytes(bytes((number + 1) << 18))
    with pytest.raises(UserError) as error:
        code_upload.code_files([tmp_path])
    sentence = str(error.value)
    assert "the code is 7.0 MiB, but a cluster takes 3.0 MiB" in sentence
    assert sentence.index("6.bin (1.8 MiB)") < sentence.index("2.bin (0.8 MiB)")
    assert "1.bin" not in sentence


def test_the_package_holds_both_packages(tmp_path: Path) -> None:
    code_upload.write_package(tmp_path)
    assert (tmp_path / "ltm/__init__.py").is_file()
    assert (tmp_path / "ltm_platform/cli/on_cluster.py").is_file()
    assert not list(tmp_path.rglob("*.pyc"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 5 << 20
