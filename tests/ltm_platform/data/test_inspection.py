from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shutil
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from PIL import Image

from ltm_platform.data import Dataset, open_dataset
from ltm_platform.data.importing import import_images
from ltm_platform.data.inspection import Checked, check_data, contact_sheet
from ltm_platform.data.sources.shards import PLACEHOLDER, Record, sealed, write_shards
from ltm_platform.data.sources.shards.layout import packed_index
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Tree

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
    found = check_data(str(root), decode_all=True).problems
    return [problem.replace(f"{root}/", "") for problem in found]


def test_good_shards_are_in_order(shards: Path) -> None:
    whole = check_data(str(shards), decode_all=True)
    assert (whole.images, whole.decoded, whole.problems) == (100, 100, ())
    assert whole.shards == len(list(shards.rglob("*.parquet"))) > 4
    assert check_data(str(shards), decode_all=True, processes=2) == whole
    sampled = check_data(str(shards))
    assert (sampled.images, sampled.problems) == (100, ())
    assert sampled.shards <= sampled.decoded < 100


def rewrite(file: Path, change: object) -> None:
    """Change the rows or the footer's words of a shard, and seal it again."""
    table = pq.read_table(file)
    rows, about = table.to_pylist(), json.loads(pq.read_metadata(file).metadata[b"ltm"])
    about |= {"data_bytes": None, "checksum": None}
    change(rows, about)  # type: ignore[operator]
    table = table.from_pylist(rows, schema=table.schema.remove_metadata())
    for _ in range(2):  # what comes before the footer is known once it has been written
        content = io.BytesIO()
        with pq.ParquetWriter(content, table.schema, compression="none") as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"ltm": json.dumps(about), "seal": PLACEHOLDER})
        whole = content.getvalue()
        length = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
        measured = {"data_bytes": length, "checksum": hashlib.sha256(whole[:length]).hexdigest()}
        about.update({key: measured[key] for key in measured if about.get(key, "") is None})
    file.write_bytes(whole[:length] + sealed(whole[length:]))


def test_each_kind_of_damage_is_named(shards: Path) -> None:
    first = sorted((shards / "train").iterdir())[0]
    name = f"train/{first.name}"
    whole = first.read_bytes()

    rewrite(first, lambda rows, _: rows[0].update(key="another"))
    assert problems(shards) == [f"{name} has an index that does not fit its images."]

    first.write_bytes(whole)
    rewrite(first, lambda _, about: about.update(checksum="0" * 64))
    assert problems(shards) == [f"{name} has another checksum than its content."]

    first.write_bytes(whole)
    rewrite(first, lambda _, about: about["counts"].reverse())
    assert problems(shards) == [
        f"{name} is damaged: its index holds other numbers of images than its counts."
    ]

    first.write_bytes(whole)
    rewrite(first, lambda rows, _: rows[1].update(label=3))
    assert problems(shards) == [f"image 'k1' of {name} has label 3, but there are 3 classes."]

    first.write_bytes(whole)
    rewrite(first, lambda rows, _: rows[1].update(image=b"text"))
    assert f"image 'k1' of {name}: not a known image format." in problems(shards)

    first.write_bytes(whole[:-20])
    assert problems(shards) == [f"{name} is damaged: it does not end as a Parquet file does."]

    first.write_bytes(whole[:30] + whole[40:])
    length = len(whole)
    assert problems(shards) == [
        f"{name} is damaged: it has {length - 10:,} bytes where {length:,} were written."
    ]

    position = whole.index(picture(0)) + 40
    first.write_bytes(whole[:position] + b"\0\0\0\0" + whole[position + 4 :])
    assert problems(shards) == [f"{name} has another checksum than its content."]

    first.unlink()
    assert problems(shards) == [f"{name} is missing: the data set is not complete."]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda about: about.update(index="?"), "its index: "),
        (lambda about: about.update(index=about["index"][:-4]), "its index: "),
        (lambda about: about.update(index=packed_index([(4, 2**62, 0, 0)])), "outside the file"),
        (lambda about: about.update(index=packed_index([(-9, 1, 0, 0)])), "outside the file"),
        (lambda about: about.update(index=packed_index([(4, 1, 3, 0)])), "none of its 3 classes"),
        (lambda about: about.update(counts="many"), "footer's counts: "),
        (lambda about: about.update(number=None), "footer's number: "),
        (lambda about: about.pop("split"), "footer's split: "),
        (lambda about: about.update(version=2), "its seal and its format do not fit together"),
        (lambda about: about.clear(), "has format None"),
    ],
)
def test_a_footer_of_wrong_values_costs_one_sentence(
    shards: Path, change: object, why: str
) -> None:
    first = sorted((shards / "val").iterdir())[0]
    rewrite(first, lambda _, about: change(about))  # type: ignore[operator]
    (problem,) = problems(shards)
    assert problem.startswith(f"val/{first.name} ")
    assert why in problem
    with pytest.raises(UserError, match=re.escape(why)):
        open_dataset(str(shards), cache=shards, val_fraction=0.1)


def test_a_seal_that_was_taken_away_is_damage(shards: Path) -> None:
    first = sorted((shards / "val").iterdir())[0]
    first.write_bytes(first.read_bytes().replace(b"ltm-sha256:", b"ltm-sha999:"))
    assert problems(shards) == [
        f"val/{first.name} is damaged: its seal and its format do not fit together."
    ]


def exchange(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def test_shards_out_of_place_are_named(shards: Path) -> None:
    first, second, *_ = sorted((shards / "train").iterdir())
    of_val = sorted((shards / "val").iterdir())[1]
    assert first.name == of_val.with_name(first.name).name
    contents = {file: file.read_bytes() for file in (first, second, of_val)}

    def refused(*names: str) -> None:
        found = problems(shards)
        assert [problem.partition(":")[0] for problem in found] == list(names)
        with pytest.raises(UserError, match="was written as"):
            open_dataset(str(shards), cache=shards, val_fraction=0.1)
        for file, content in contents.items():
            file.write_bytes(content)
        assert problems(shards) == []

    exchange(first, second)
    refused(
        f"train/{first.name} was written as train/{second.name}",
        f"train/{second.name} was written as train/{first.name}",
    )
    second.write_bytes(first.read_bytes())
    refused(f"train/{second.name} was written as train/{first.name}")
    of_val.write_bytes(first.read_bytes())
    refused(f"val/{of_val.name} was written as train/{first.name}")


def test_training_and_validation_exchanged_are_named(shards: Path) -> None:
    exchange(shards / "train", shards / "val")
    found = problems(shards)
    assert len(found) == check_data(str(shards)).shards
    assert all(" was written as " in problem for problem in found)
    with pytest.raises(UserError, match="was written as val/"):
        open_dataset(str(shards), cache=shards, val_fraction=0.1)


def test_a_shard_of_another_data_set_is_named(shards: Path, tmp_path: Path) -> None:
    records = [Record(picture(n), n % 2, f"k{n}") for n in range(50)]
    write_shards(tmp_path / "other", "val", records, CLASSES, dataset="other", shard_bytes=1000)
    last = sorted((shards / "val").iterdir())[-1]
    last.write_bytes((tmp_path / "other/val" / last.name).read_bytes())
    shutil.rmtree(tmp_path / "other/val")
    first = last.with_name(last.name.replace(last.name[:5], "00000"))
    (problem, *surplus) = problems(shards)
    assert (problem, surplus) == (
        f"val/{last.name} belongs to another data set than {first}.".replace(f"{shards}/", ""),
        [],
    )


def test_files_that_do_not_belong_are_named(shards: Path) -> None:
    first = sorted((shards / "train").iterdir())[0]
    (shards / "train/00007-of-00099.parquet").write_bytes(first.read_bytes())
    (shards / "val/notes.txt").write_text("mine")
    (shards / "test").mkdir()
    (shards / "test" / first.name).write_bytes(first.read_bytes())
    (shards / ".DS_Store").touch()
    count = len(list((shards / "train").iterdir())) - 1
    assert problems(shards) == [
        f"test/{first.name} does not belong to the data set.",
        f"train/00007-of-00099.parquet does not belong to the {count} shards there.",
        "train/00007-of-00099.parquet does not belong to the data set.",
        "val/notes.txt does not belong to the data set.",
    ]


@pytest.fixture
def imported(tree: Tree, tmp_path: Path) -> Path:
    for split, numbers in (("train", range(9)), ("val", range(3))):
        tree.add(*(f"{split}/{name}/{n}.png" for name in ("ant", "bee") for n in numbers))
    import_images(str(tree.root), str(tmp_path / "imported"), shard_bytes=600)
    return tmp_path / "imported"


def test_the_report_of_an_import_is_checked(imported: Path, tree: Tree, tmp_path: Path) -> None:
    assert problems(imported) == []
    report = imported / "report.json"
    text = report.read_text()
    report.write_text(text.replace('"classes": 2', '"classes": 3'))
    assert problems(imported) == [
        "report.json is damaged: it has another checksum than its content."
    ]
    report.unlink()
    assert problems(imported) == ["report.json is missing: the import wrote it beside the shards."]
    # Another picture of as many bytes, so that only the content tells.
    file = tree.root / "val/ant/0.png"
    size = file.stat().st_size
    Image.new("RGB", (12, 10), (1, 1, 1)).save(file)
    assert file.stat().st_size == size
    again = tmp_path / "again"
    import_images(str(tree.root), str(again), shard_bytes=600)
    report.write_bytes((again / "report.json").read_bytes())
    (problem,) = problems(imported)
    assert problem == "val/00000-of-00001.parquet is of another import than report.json tells of."


def contents(root: Path) -> list[list[tuple[bytes, int]]]:
    data = open_dataset(str(root), cache=root, val_fraction=0.1)
    return [part.read(range(len(part))) for part in (data.train, data.val)]


def refusal(root: Path, expected: list[list[tuple[bytes, int]]]) -> str | None:
    """Why the images cannot be read; None if they are what they were."""
    try:
        found = contents(root)
    except UserError as error:
        return str(error)
    assert found == expected
    return None


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_and_no_cut_goes_unnoticed(imported: Path, seed: int) -> None:
    draw = random.Random(seed)
    expected = contents(imported)
    assert len(list(imported.rglob("*.parquet"))) > 3
    for file in sorted(imported.rglob("*.*")):
        whole = file.read_bytes()
        footer = max(0, len(whole) - 1500)
        positions = [draw.randrange(len(whole)) for _ in range(12)]
        positions += [draw.randrange(footer, len(whole)) for _ in range(12)]
        damaged = []
        for position in positions:
            flipped = bytearray(whole)
            flipped[position] ^= 1 << draw.randrange(8)
            damaged.append(bytes(flipped))
        damaged += [whole[: draw.randrange(len(whole))] for _ in range(4)]
        for content in damaged:
            file.write_bytes(content)
            found = check_data(str(imported)).problems
            assert found
            assert all(file.name in problem and "\n" not in problem for problem in found), found
            assert str(file) in (refusal(imported, expected) or str(file))
        file.write_bytes(whole)
    assert problems(imported) == []


def test_what_holds_no_images_is_said(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path, "holds no class folders"), (tmp_path / "no", "not found")):
        with pytest.raises(UserError, match=sentence):
            check_data(str(path))


def test_every_image_of_a_folder_is_decoded(tree: Tree) -> None:
    tree.add(*(f"{name}/{n}.png" for name in ("ant", "bee") for n in range(70)))
    assert check_data(str(tree.root)) == Checked(None, 140, 140, ())
    bad = tree.root / "bee/69.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    (tree.root / "ant/7.png").write_bytes(b"text")
    told: list[tuple[int, int]] = []
    for processes in (1, 2):
        found = check_data(
            str(tree.root), processes=processes, listener=lambda *so_far: told.append(so_far)
        )
        one, other = found.problems
        assert one == f"image 'ant/7.png' of {tree.root}: not a known image format."
        assert other.startswith(f"image 'bee/69.png' of {tree.root}: cannot be decoded: ")
    assert told[2] == told[-1] == (140, 140)


def test_a_check_tells_how_far_it_is(shards: Path) -> None:
    told: list[tuple[int, int]] = []
    checked: Checked = check_data(str(shards), listener=lambda *so_far: told.append(so_far))
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
