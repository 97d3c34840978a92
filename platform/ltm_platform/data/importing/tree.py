"""A tree of image files with one folder a class, as a folder or in a tar."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltm_platform.data.importing.originals import (
    EXPECTED,
    LARGEST_BYTES,
    BadImageError,
    Entry,
    Originals,
)
from ltm_platform.data.sources.folder import EXTENSIONS
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from ltm_platform.storage.path import StoragePath

SPLITS = {"train": "train", "val": "val", "validation": "val"}
File = tuple[str, int, Any]
"""Path with forward slashes, bytes, and where its bytes lie."""


def open_folder(root: StoragePath) -> Originals:
    """The images below ``root``, here or in a store. UserError if they are in no class folders."""
    found = _walk(root.path) if root.is_local else root.files(recursive=True)
    files = sorted((_printable(path), size, path) for path, size in found)
    return Originals(_FolderReader(root), *arrange(files, str(root)))


def open_archive(file: StoragePath) -> Originals:
    """The images in an uncompressed tar. Nothing is ever extracted.

    Raises:
        UserError: no tar, compressed, damaged, or its images are in no class folders.
    """
    files: list[File] = []
    refused: list[tuple[str, str]] = []
    try:
        with (
            file.filesystem.open_input_file(file.path) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            for member in archive:
                reason = _objection(member)
                if reason:
                    refused.append((_printable(member.name), reason))
                elif member.isreg():
                    where = (member.offset_data, member.size)
                    files.append((_printable(member.name), member.size, where))
    except tarfile.TarError as error:
        raise UserError(
            f"{file} cannot be read as a tar: {error}. A compressed one must be decompressed "
            "first, since images are read from it at random."
        ) from error
    files = sorted(_without_common_folder([_clean(f) for f in files]))
    return Originals(_ArchiveReader(file), *arrange(files, str(file)), tuple(refused))


def arrange(files: Iterable[File], source: str) -> tuple[tuple[str, ...], dict[str, list[Entry]]]:
    """Class names and the entries of each split, in the order of ``files``.

    Hidden files and what has not the ending of an image are left alone, as are images that lie
    in no class folder.
    """
    images = [
        (path.split("/"), size, where)
        for path, size, where in files
        if path.lower().endswith(EXTENSIONS) and not any(p.startswith(".") for p in path.split("/"))
    ]
    has_splits = any(parts[0] == "train" for parts, _, _ in images)
    found: dict[str, list[tuple[str, Entry]]] = {}
    for parts, size, where in images:
        split = SPLITS.get(parts[0]) if has_splits else "train"
        below = parts[1:] if has_splits else parts
        if split and len(below) > 1:
            entry = Entry("/".join(parts), -1, size, where)
            found.setdefault(split, []).append((below[0], entry))
    if "train" not in found:
        raise UserError(
            f"{source} holds no image ({', '.join(EXTENSIONS)}) in a class folder; "
            f"expected {EXPECTED}."
        )
    classes = tuple(sorted({name for name, _ in found["train"]}))
    labels = {name: label for label, name in enumerate(classes)}
    extra = sorted({name for name, _ in found.get("val", [])} - set(classes))
    if extra:
        raise UserError(
            f"the validation part of {source} has the class {extra[0]!r}, which the training part "
            "lacks."
        )
    return classes, {
        split: [entry._replace(label=labels[name]) for name, entry in entries]
        for split, entries in found.items()
    }


def _walk(root: str) -> Iterator[tuple[str, int]]:
    # pyarrow refuses names that are not UTF-8, which a local tree may have.
    for folder, inner, names in os.walk(root, followlinks=True, onerror=_raise):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, root).replace(os.sep, "/"), os.path.getsize(path)


def _raise(error: OSError) -> None:
    raise error


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _objection(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    if member.issparse() or member.isdev():
        return "not a plain file"
    return None


def _clean(file: File) -> File:
    path, size, where = file
    return "/".join(part for part in path.split("/") if part not in ("", ".")), size, where


def _without_common_folder(files: list[File]) -> list[File]:
    """Take off the folder that ``tar cf images.tar images`` puts above everything."""
    tops = {path.split("/")[0] for path, _, _ in files}
    deep = all(path.count("/") > 1 for path, _, _ in files)
    if len(tops) != 1 or tops & set(SPLITS) or not deep:
        return files
    return [(path.split("/", 1)[1], size, where) for path, size, where in files]


def _check_size(size: int) -> None:
    if size > LARGEST_BYTES:
        raise BadImageError(f"larger than {LARGEST_BYTES >> 20} MiB")


@dataclass(frozen=True)
class _FolderReader:
    root: StoragePath

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | BadImageError]:
        for entry in entries:
            try:
                yield self._bytes(entry)
            except BadImageError as error:
                yield error

    def _bytes(self, entry: Entry) -> bytes:
        _check_size(entry.size)
        path: str = entry.where
        try:
            if self.root.is_local:
                with open(os.path.join(self.root.path, path), "rb") as file:
                    return file.read(LARGEST_BYTES + 1)
            return (self.root / path).read()
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class _ArchiveReader:
    file: StoragePath

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | BadImageError]:
        with self.file.filesystem.open_input_file(self.file.path) as stream:
            for entry in entries:
                try:
                    yield self._bytes(stream, entry)
                except BadImageError as error:
                    yield error

    def _bytes(self, stream: pa.NativeFile, entry: Entry) -> bytes:
        _check_size(entry.size)
        offset, size = entry.where
        data: bytes = stream.read_at(size, offset)
        if len(data) < size:
            raise BadImageError("the archive ends within it")
        return data
