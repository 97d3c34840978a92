"""Folders, tars and Parquet files become the same shards, whoever writes them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ltm_platform.data import open_dataset
from ltm_platform.data.importing import import_images
from ltm_platform.data.sources.shards import read_footer
from ltm_platform.errors import UserError
from ltm_platform.storage.path import storage_path

CLASSES = ("ant", "bee", "cat")
PER_CLASS = 12


def encoded(number: int, form: str = "png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def contents() -> dict[str, bytes]:
    """A tree of two splits, as path -> bytes."""
    return {
        f"{split}/{name}/{number}.png": encoded(100 * label + number + 1000 * (split == "val"))
        for split, count in (("train", PER_CLASS), ("val", 2))
        for label, name in enumerate(CLASSES)
        for number in range(count)
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for path, data in contents().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def load(source: Path | str, target: Path | str, **options: object) -> dict[str, bytes]:
    """Import in small shards; every file of the destination with its bytes."""
    import_images(str(source), str(target), shard_bytes=4000, **options)  # type: ignore[arg-type]
    root = Path(str(target).removeprefix("fsspec+file://"))
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def images(target: Path, split: str) -> dict[bytes, str]:
    """Encoded bytes -> class name."""
    data = open_dataset(str(target), cache=target, val_fraction=0.2)
    source = data.train if split == "train" else data.val
    return {image: data.classes[label] for image, label in source.read(range(len(source)))}


def test_a_tree_becomes_shards_with_every_image(tree: Path, tmp_path: Path) -> None:
    (tree / "train/ant/notes.txt").write_text("no image")
    (tree / "train/ant/.hidden.png").write_bytes(b"junk")
    made = import_images(str(tree), str(tmp_path / "out"))
    assert made.images == {"train": 36, "val": 6}
    assert (made.classes, made.skipped) == (CLASSES, 0)
    for split in ("train", "val"):
        expected = {d: p.split("/")[1] for p, d in contents().items() if p.startswith(split)}
        assert images(tmp_path / "out", split) == expected
    assert not (tmp_path / "out/unfinished.json").exists()


def test_any_number_of_processes_and_any_store_give_the_same_bytes(
    tree: Path, tmp_path: Path
) -> None:
    expected = load(tree, tmp_path / "one")
    assert len(expected) > 4
    assert load(tree, tmp_path / "two", processes=2) == expected
    address = f"fsspec+file://{tmp_path}"
    assert load(f"{address}/images", f"{address}/three") == expected
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def pack(tree: Path, tar: Path, name: str = ".", mode: str = "w") -> None:
    with tarfile.open(tar, mode) as archive:  # type: ignore[call-overload]
        archive.add(tree, name)


@pytest.mark.parametrize("top", [".", "", "images"])
def test_a_tar_gives_the_same_images_as_its_folder(tree: Path, tmp_path: Path, top: str) -> None:
    pack(tree, tmp_path / "images.tar", top)
    tar = load(tmp_path / "images.tar", tmp_path / "a")
    assert tar == load(tree, tmp_path / "b")


def test_a_tar_cannot_escape(tree: Path, tmp_path: Path) -> None:
    tar = tmp_path / "work" / "images.tar"
    tar.parent.mkdir()
    pack(tree, tar)
    with tarfile.open(tar, "a") as archive:
        for name, kind, link in (
            ("../evil.png", tarfile.REGTYPE, ""),
            ("/tmp/evil.png", tarfile.REGTYPE, ""),
            ("train/ant/link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("train/ant/hard.png", tarfile.LNKTYPE, "../../etc/passwd"),
            ("train/ant/device.png", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    before = sorted(tmp_path.rglob("*"))
    import_images(str(tar), str(tmp_path / "work/out"))
    after = [path for path in sorted(tmp_path.rglob("*")) if "out" not in path.parts]
    assert after == before
    skipped = json.loads((tmp_path / "work/out/report.json").read_text())["skipped"]
    assert {one["image"]: one["reason"] for one in skipped} == {
        "../evil.png": "its name leads out of the archive",
        "/tmp/evil.png": "its name leads out of the archive",
        "train/ant/link.png": "a link",
        "train/ant/hard.png": "a link",
        "train/ant/device.png": "not a plain file",
    }


def test_a_compressed_tar_and_one_cut_short_are_explained(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "images.tar.gz", mode="w:gz")
    with pytest.raises(UserError, match="must be decompressed first"):
        import_images(str(tmp_path / "images.tar.gz"), str(tmp_path / "out"))
    pack(tree, tmp_path / "images.tar")
    whole = (tmp_path / "images.tar").read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[: len(whole) // 2 + 700])
    with pytest.raises(UserError, match=r"short\.tar"):
        import_images(str(tmp_path / "short.tar"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def parquet(folder: Path, *, names: bool, struct: bool) -> None:
    """The tree as Hugging Face publishes it."""
    folder.mkdir()
    rows = [(data, *path.split("/")[:2]) for path, data in contents().items()]
    for split, files in (("train", 2), ("validation", 1)):
        mine = [(data, CLASSES.index(name)) for data, part, name in rows if split.startswith(part)]
        features = {
            "image": {"_type": "Image"},
            "label": {"_type": "ClassLabel", "names": list(CLASSES)} if names else {},
        }
        for number in range(files):
            some = mine[number::files]
            encodings = [data for data, _ in some]
            column = (
                pa.array([{"bytes": data, "path": None} for data in encodings])
                if struct
                else pa.array(encodings)
            )
            table = pa.table({"image": column, "label": [label for _, label in some]})
            about = json.dumps({"info": {"features": features}})
            pq.write_table(
                table.replace_schema_metadata({"huggingface": about}),
                folder / f"{split}-{number:05d}-of-{files:05d}.parquet",
                row_group_size=5,
            )


@pytest.mark.parametrize(("names", "struct"), [(True, True), (False, True), (False, False)])
def test_a_hugging_face_data_set_gives_the_same_images(
    tmp_path: Path, names: bool, struct: bool
) -> None:
    parquet(tmp_path / "hf", names=names, struct=struct)
    assert load(tmp_path / "hf", tmp_path / "a") == load(
        tmp_path / "hf", tmp_path / "b", processes=2
    )
    for split in ("train", "val"):
        known = {d: p.split("/")[1] for p, d in contents().items() if p.startswith(split)}
        if not names:
            known = {data: str(CLASSES.index(name)) for data, name in known.items()}
        assert images(tmp_path / "a", split) == known


def test_without_a_validation_part_the_images_are_split(tree: Path, tmp_path: Path) -> None:
    made = import_images(str(tree / "train"), str(tmp_path / "out"), val_fraction=0.25)
    assert made.images == {"train": 27, "val": 9}
    train, val = (images(tmp_path / "out", split) for split in ("train", "val"))
    assert not train.keys() & val.keys()
    # As when the tree is trained on directly.
    direct = open_dataset(str(tree / "train"), cache=tmp_path, val_fraction=0.25)
    assert {data for data, _ in direct.val.read(range(9))} == val.keys()


@pytest.mark.parametrize("name", ["unfinished.json", "report.json"])
@pytest.mark.parametrize("text", ["", "[", "[1]", '"plan"'])
def test_a_damaged_note_of_an_earlier_import_costs_one_sentence(
    tree: Path, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} is damaged: remove it and the shards beside it"):
        import_images(str(tree), str(tmp_path / "out"))


def spoil(tree: Path) -> None:
    whole = encoded(0)
    # A header that promises 12,000 x 12,000 pixels.
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "png")
    bad = {"cut": whole[:-30], "text": b"text", "empty": b"", "bomb": bomb.getvalue()}
    for name, data in bad.items():
        (tree / f"train/bee/{name}.png").write_bytes(data)


def test_bad_images_are_left_out_and_reported(tree: Path, tmp_path: Path) -> None:
    spoil(tree)
    with pytest.raises(UserError, match=r"at most 1.00% may be bad") as caught:
        load(tree, tmp_path / "out")
    assert "--allow-bad" in str(caught.value)
    with pytest.raises(UserError, match="was not finished"):
        images(tmp_path / "out", "train")
    after_refusal = load(tree, tmp_path / "out", allow_bad=0.1)
    assert after_refusal == load(tree, tmp_path / "other", allow_bad=0.1, processes=2)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["images"] == {"train": 36, "val": 6}
    reasons = {one["image"]: one["reason"] for one in report["skipped"]}
    assert reasons["train/bee/text.png"] == "not a known image format"
    assert reasons["train/bee/empty.png"] == "empty"
    assert "truncated" in reasons["train/bee/cut.png"]
    assert "exceeds limit" in reasons["train/bee/bomb.png"]
    assert len(images(tmp_path / "out", "train")) == 36


KILLED = """
import sys
from ltm_platform.data.importing import import_images
def tell(done, total):
    print(done, flush=True)
    if done:
        sys.stdin.read()  # until killed
if __name__ == "__main__":
    import_images(sys.argv[1], sys.argv[2], shard_bytes=4000, processes=2, listener=tell)
"""


def test_a_killed_import_goes_on_and_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    expected = load(tree, tmp_path / "whole")
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, script, tree, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if int(line):
                break
        writers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    with pytest.raises(UserError, match="give the same"):
        open_dataset(str(out), cache=tmp_path, val_fraction=0.2)
    # The processes that write end with the one that was killed.
    assert writers
    assert not psutil.wait_procs(writers, timeout=300)[1]
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert finished
    assert load(tree, out) == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_finished_import_is_not_done_again(tree: Path, tmp_path: Path) -> None:
    load(tree, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    load(tree, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_content_is_never_overwritten(tree: Path, tmp_path: Path) -> None:
    load(tree, tmp_path / "out")
    (tree / "train/ant/new.png").write_bytes(encoded(7))
    with pytest.raises(UserError, match="holds an import of other images"):
        load(tree, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("years")
    with pytest.raises(UserError, match="is not empty"):
        load(tree, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        (lambda root: shutil.rmtree(root), "not found"),
        (lambda root: [p.unlink() for p in root.rglob("*.png")], "holds no image"),
        (lambda root: (root / "train/ant").rename(root / "train/.ant"), "has the class 'ant'"),
        (
            lambda root: pq.write_table(pa.table({"x": [1]}), root / "train.parquet"),
            "no column of images",
        ),
        (
            lambda root: pq.write_table(pa.table({"image": [b"x"]}), root / "train.parquet"),
            "no column of labels",
        ),
    ],
)
def test_a_source_of_no_use_is_explained(
    tree: Path, tmp_path: Path, spoiled: object, sentence: str
) -> None:
    spoiled(tree)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence) as caught:
        load(tree, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_costs_one_sentence_and_leaves_nothing_half_written(
    tree: Path, tmp_path: Path
) -> None:
    code = (
        "import resource, signal, sys\n"
        "from ltm_platform.data.importing import import_images\n"
        "from ltm_platform.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: import_images(*sys.argv[1:3], shard_bytes=4000)\n"
        "except UserError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, tree, tmp_path / "out"], capture_output=True, text=True
    )
    assert "cannot be written" in answer.stdout, answer.stderr
    assert len(answer.stdout.splitlines()) == 1
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["unfinished.json"]


def test_the_footer_tells_what_was_left_out(tree: Path, tmp_path: Path) -> None:
    spoil(tree)
    import_images(str(tree), str(tmp_path / "out"), allow_bad=0.5)
    footer = read_footer(storage_path(tmp_path / "out/train/00000-of-00001.parquet"))
    assert [key for key, _ in footer.skipped] == [
        f"train/bee/{name}.png" for name in ("bomb", "cut", "empty", "text")
    ]
    assert footer.counts == (12, 12, 12)
