"""A Parquet image data set, such as Hugging Face's: one column of images, one of labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ltm_platform.data.importing.originals import BadImageError, Entry, Originals
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_platform.storage.path import StoragePath

_LABELS = ("label", "labels", "fine_label", "class", "target")
# The split is the file's first word, or the name of the folder that it lies in.
_SPLIT = re.compile(r"(?:^|/)(train|validation|valid|val|test)(?:[-_.][^/]*|/[^/]*)$")
_VALIDATION = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str
    names: tuple[str, ...] | None


def open_table(root: StoragePath) -> Originals:
    """The images of one Parquet file, or of the split files below a folder.

    Splits are train-*.parquet and validation-*.parquet (or valid, val, and test if there is no
    other); files named otherwise are the training part.

    Raises:
        UserError: no column of images or of labels, or files that differ in them.
    """
    files = [root] if root.is_file() else [root / name for name in parquet_files(root)]
    splits = _by_split(files)
    used = [file for group in splits.values() for file in group]
    footers = [_footer(file) for file in used]
    columns = _columns(used[0], footers[0].schema.to_arrow_schema())
    for file, footer in zip(used, footers, strict=True):
        if _columns(file, footer.schema.to_arrow_schema()) != columns:
            raise UserError(f"{file} has other columns or classes than {used[0]}.")
    values = [_labels(file, columns) for file in used]
    names = columns.names or _names(values)
    numbers = {name: number for number, name in enumerate(names)}
    entries: dict[str, list[Entry]] = {}
    number = -1
    for split, group in splits.items():
        entries[split] = []
        for file in group:
            number += 1
            labels = [_label(v, columns, numbers, file) for v in values[number]]
            entries[split] += _entries(number, file, footers[number], labels)
    if not entries.get("train"):
        raise UserError(f"{root} holds no training images (train-*.parquet).")
    return Originals(_TableReader(tuple(used), columns), names, entries)


def parquet_files(root: StoragePath) -> list[str]:
    """Names of the Parquet files below ``root``, hidden ones left out."""
    return [
        name
        for name, _ in root.files(recursive=True)
        if name.endswith(".parquet") and not any(p.startswith(".") for p in name.split("/"))
    ]


def _by_split(files: list[StoragePath]) -> dict[str, list[StoragePath]]:
    found: dict[str, list[StoragePath]] = {}
    for file in files:
        match = _SPLIT.search(file.path)
        found.setdefault(match[1] if match else "train", []).append(file)
    val = next((name for name in _VALIDATION if name in found), None)
    return {"train": found.get("train", [])} | ({"val": found[val]} if val else {})


def _footer(file: StoragePath) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file.path, filesystem=file.filesystem)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read as Parquet: {error}.") from error


def _columns(file: StoragePath, schema: pa.Schema) -> _Columns:
    features = _features(schema)
    images = [field.name for field in schema if _holds_images(field.type)]
    declared = [name for name in images if features.get(name, {}).get("_type") == "Image"]
    image = next(iter(declared or images), None)
    if image is None:
        raise UserError(
            f"{file} has no column of images (binary, or a struct with bytes); "
            f"it has {', '.join(schema.names)}."
        )
    classes = [name for name, about in features.items() if about.get("_type") == "ClassLabel"]
    label = next((name for name in (*classes, *_LABELS) if name in schema.names), None)
    if label is None:
        raise UserError(
            f"{file} has no column of labels ({', '.join(_LABELS)}); "
            f"it has {', '.join(schema.names)}."
        )
    names = features.get(label, {}).get("names")
    return _Columns(image, label, tuple(names) if names else None)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    raw = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(raw).get("info", {}).get("features", {}) if raw else {}
    return {name: about for name, about in features.items() if isinstance(about, dict)}


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _labels(file: StoragePath, columns: _Columns) -> list[int | str]:
    table = pq.read_table(file.path, filesystem=file.filesystem, columns=[columns.label])
    return table[columns.label].to_pylist()


def _names(values: list[list[int | str]]) -> tuple[str, ...]:
    """Labels that are numbers are named by them; names are sorted."""
    seen = {value for column in values for value in column if value is not None}
    if all(isinstance(value, int) for value in seen):
        return tuple(str(number) for number in range(max(map(int, seen), default=-1) + 1))
    return tuple(sorted(map(str, seen)))


def _label(value: Any, columns: _Columns, numbers: dict[str, int], file: StoragePath) -> int:
    label = value if isinstance(value, int) else numbers.get(str(value), -1)
    if not 0 <= label < len(numbers):
        raise UserError(
            f"{file} has the value {value!r} in column {columns.label!r}, "
            f"which is none of its {len(numbers)} classes."
        )
    return label


def _entries(
    number: int, file: StoragePath, footer: pq.FileMetaData, labels: list[int]
) -> Iterator[Entry]:
    row = 0
    for group in range(footer.num_row_groups):
        about = footer.row_group(group)
        size = about.total_byte_size // max(about.num_rows, 1)
        for index in range(about.num_rows):
            yield Entry(f"{file.name}#{row}", labels[row], size, (number, group, index))
            row += 1


@dataclass(frozen=True)
class _TableReader:
    files: tuple[StoragePath, ...]
    columns: _Columns

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | BadImageError]:
        group = lru_cache(1)(self._group)
        for entry in entries:
            number, of_file, row = entry.where
            value = group(number, of_file)[row].as_py()
            yield BadImageError("no image in this row") if value is None else value

    def _group(self, number: int, group: int) -> pa.Array:
        file = self.files[number]
        with pq.ParquetFile(file.path, filesystem=file.filesystem) as table:
            column = table.read_row_group(group, columns=[self.columns.image], use_threads=False)
        image = column[self.columns.image].combine_chunks()
        return pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image
