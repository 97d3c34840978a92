from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from PIL import Image

from ltm_platform.data import Dataset, open_dataset
from ltm_platform.data.inspection import Checked, check_shards, contact_sheet
from ltm_platform.data.sources.shards import Record, write_shards
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ["dark", "light", "unseen"]


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 200 * (number % 2) + number).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    records = [Record(picture(n), n % 2, f"k{n}") for n in range(50)]
    for split in ("train", "val"):
        write_shards(tmp_path, split, records, CLASSES, shard_bytes=1000)
    return tmp_path


def problems(root: Path) -> list[str]:
    found = check_shards(str(root), decode_all=True).problems
    return [problem.replace(f"{root}/", "") for problem in found]


def test_good_shards_are_in_order(shards: Path) -> None:
    whole = check_shards(str(shards), decode_all=True)
    assert (whole.images, whole.decoded, whole.problems) == (100, 100, ())
    assert whole.shards == len(list(shards.rglob("*.parquet"))) > 4
    assert check_shards(str(shards), decode_all=True, processes=2) == whole
    sampled = check_shards(str(shards))
    assert (sampled.images, sampled.problems) == (100, ())
    assert sampled.shards <= sampled.decoded < 100


def rewrite(file: Path, change: object) -> None:
    """Change the rows or the footer's words of a shard."""
    table = pq.read_table(file)
    rows, about = table.to_pylist(), json.loads(pq.read_metadata(file).metadata[b"ltm"])
    change(rows, about)  # type: ignore[operator]
    table = table.from_pylist(rows, schema=table.schema.remove_metadata())
    pq.write_table(table.replace_schema_metadata({"ltm": json.dumps(about)}), file)


def test_each_kind_of_damage_is_named(shards: Path) -> None:
    first = sorted((shards / "train").iterdir())[0]
    name = f"train/{first.name}"
    whole = first.read_bytes()

    rewrite(first, lambda rows, _: rows[0].update(key="another"))
    assert problems(shards) == [f"{name} has another checksum than its content."]

    first.write_bytes(whole)
    rewrite(first, lambda _, about: about["counts"].reverse())
    assert f"{name} holds other numbers of images than it says." in problems(shards)

    first.write_bytes(whole)
    rewrite(first, lambda _, about: about.update(index=about["index"][::-1]))
    assert problems(shards) == [f"{name} has an index that does not fit its images."]

    first.write_bytes(whole)
    rewrite(first, lambda rows, _: rows[1].update(label=3))
    assert problems(shards) == [f"image 'k1' of {name} has label 3, but there are 3 classes."]

    first.write_bytes(whole)
    rewrite(first, lambda rows, _: rows[1].update(image=b"text"))
    assert f"image 'k1' of {name}: not a known image format." in problems(shards)

    first.write_bytes(whole[:-20])
    assert any(problem.startswith(f"{name} is damaged") for problem in problems(shards))

    position = whole.index(picture(0)) + 40
    first.write_bytes(whole[:position] + b"\0\0\0\0" + whole[position + 4 :])
    assert f"{name} has another checksum than its content." in problems(shards)

    first.unlink()
    assert problems(shards) == [f"{name} is missing: the data set is not complete."]


def test_what_holds_no_shards_is_said(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path, "holds no shards"), (tmp_path / "no", "not found")):
        with pytest.raises(UserError, match=sentence):
            check_shards(str(path))


def test_a_check_tells_how_far_it_is(shards: Path) -> None:
    told: list[tuple[int, int]] = []
    checked: Checked = check_shards(str(shards), listener=lambda *so_far: told.append(so_far))
    assert told == [(n + 1, checked.shards) for n in range(checked.shards)]


def test_a_contact_sheet_has_a_row_for_every_class_with_images(shards: Path) -> None:
    data: Dataset = open_dataset(str(shards), cache=shards, val_fraction=0.1)
    sheet = contact_sheet(data.train, columns=4).convert("L")
    one, two = (contact_sheet(data.train, rows=rows, columns=4) for rows in (1, 2))
    assert sheet.size == two.size
    assert two.height == 2 * one.height
    dark, light = (sheet.getpixel((4, y)) for y in (18, two.height // 2 + 18))
    assert dark < 60  # type: ignore[operator]
    assert light > 190  # type: ignore[operator]
