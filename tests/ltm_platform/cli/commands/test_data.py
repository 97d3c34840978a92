"""``ltm-platform data`` as a user types it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_here: Run) -> Run:
    monkeypatch.chdir(tmp_path)
    return partial(call_here, "data")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for name, shade in (("cat", 10), ("dog", 240)):
        (root / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (9, 9), shade + number).save(root / name / f"{number}.png")
    return root


@pytest.mark.usefixtures("pets")
def test_import_check_and_show_in_turn(run: Run, tmp_path: Path) -> None:
    made = run("import", "pets", "shards", "--processes", "1")
    assert made == (0, "shards: 8 training and 2 validation images, 2 classes\n", "")
    checked = run("check", "shards", "--decode-all", "--processes", "1")
    assert checked.out == "shards: 10 images in 2 shards are in order; 10 of them were decoded\n"
    shown = run("show", "shards", "--sheet", "sheet.png")
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[1:3] == [["cat", "4", "1"], ["dog", "4", "1"]]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 0


@pytest.mark.usefixtures("pets")
def test_import_says_what_smaller_pictures_change(run: Run) -> None:
    made = run("import", "pets", "shards", "--processes", "1", "--short-side", "32")
    assert made.code == 0
    assert "a shorter side of 32 pixels, as JPEG of quality 90" in made.out
    assert "other pixels than of the originals" in made.out
    alone = run("import", "pets", "again", "--quality", "80")
    assert alone.code == 2
    assert alone.err.count("\n") == 1
    assert "--quality 80" in alone.err


@pytest.mark.usefixtures("pets")
def test_labels_of_what_is_no_network_are_refused_before_anything_is_written(
    run: Run, tmp_path: Path
) -> None:
    for name in ("none", "local-dir:none"):
        refused = run("import", "pets", "shards", "--labels-of", name)
        assert refused.code == 2
        assert name in refused.err
        assert refused.err.count("\n") == 1
    assert not (tmp_path / "shards").exists()


def test_left_out_images_are_told(run: Run, pets: Path) -> None:
    (pets / "cat/bad.png").write_bytes(b"text")
    refused = run("import", "pets", "shards", "--processes", "1")
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1
    assert "cat/bad.png (not a known image format)" in refused.err
    allowed = run("import", "pets", "shards", "--processes", "1", "--allow-bad", "0.2")
    assert allowed.code == 0
    assert "1 image was left out" in allowed.out


def test_a_folder_of_images_is_checked(run: Run, pets: Path) -> None:
    whole = run("check", "pets", "--processes", "1")
    assert whole == (0, "pets: 10 images are in order, all of them were decoded\n", "")
    (pets / "cat/bad.jpg").write_bytes(b"text")
    refused = run("check", "pets", "--processes", "1")
    assert refused.code == 2
    assert f"image 'cat/bad.jpg' of {pets}: not a known image format." in refused.err


def test_files_that_are_no_images_are_counted_by_import_and_show(run: Run, pets: Path) -> None:
    (pets / "cat/notes.txt").write_text("purrs")
    (pets / "dog/._1.png").write_bytes(b"junk")
    counted = (
        "2 left out that are no images of a class: 1 not an image by their ending, .txt (such as "
        "cat/notes.txt); 1 hidden (such as dog/._1.png)\n"
    )
    made = run("import", "pets", "shards", "--processes", "1")
    assert made.out.endswith(counted)
    assert run("show", "pets").out.endswith(counted)
    assert run("check", "pets").out.endswith(counted)


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["imprt", "pets", "shards"], ["'data imprt'", "'import'"]),
        (["import", "pts", "shards"], ["pts not found"]),
        (["import", "pets", "pets"], ["pets lies in pets"]),
        (["import", "pets", "pets/shards"], ["pets/shards lies in pets"]),
        (["import", "foo://pets", "shards"], ["foo://pets", "s3://"]),
        (["import", "pets", "shards", "--allow-bad", "2"], ["--allow-bad", "0<=x<=1"]),
        (["import", "pets", "/proc/shards"], ["/proc/shards", "Cannot create directory"]),
        (["check", "pets/cat"], ["holds no image"]),
        (["show", "pts"], ["pts not found"]),
        (["show", "pets", "--sheet", "nowhere/sheet.png"], ["--sheet nowhere/sheet.png"]),
        (["show", "pets", "--sheet", "sheet.xyz"], ["--sheet sheet.xyz", "xyz"]),
    ],
)
def test_mistakes_cost_one_sentence(
    run: Run, tmp_path: Path, args: list[str], words: list[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = run(*args)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert all(word in line for word in words), line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["import", "{}", "shards"], "SOURCE"),
        (["import", "pets", "{}"], "DEST"),
        (["check", "{}"], "PATH"),
        (["show", "{}"], "PATH"),
    ],
)
def test_an_address_without_its_bucket_costs_one_sentence(
    run: Run, tmp_path: Path, bucket: str, args: list[str], name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = run(*(arg.format(f"{bucket}-else/x") for arg in args))
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert line.startswith(f"{name}: {bucket}-else/x cannot be reached: http://127.0.0.1:")
    assert f"has no bucket '{bucket.removeprefix('s3://')}-else'" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["import", "check", "show"])
def test_every_help_has_an_example(run: Run, command: str) -> None:
    answer = run(command, "--help")
    example = answer.out.partition("Example:\n")[2].splitlines()[0]
    assert example.strip().startswith(f"ltm-platform data {command} ")
