"""A tree of image files with one folder a class, as a folder or in a tar."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.data.importing.originals import (
    LARGEST_BYTES,
    BadImageError,
    Entry,
    Originals,
)
from ltm_platform.data.tree import (
    FORMATS,
    NO_FILE,
    TRAIN,
    VALIDATION,
    File,
    LeftOut,
    Listing,
    Tree,
    arrange,
    images_by_folder,
    is_image,
    list_folder,
)
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from ltm_platform.data.importing.originals import Reader
    from ltm_platform.storage.path import StoragePath


def open_folder(root: StoragePath, *, unlabelled: bool = False) -> Originals:
    """The images below ``root``, here or in a store. UserError if they are in no class folders,
    unless ``unlabelled``."""
    if root.is_local:
        listing = list_folder(root.path, sizes=True)
    else:
        files = [File(path, size, path) for path, size in root.files(recursive=True)]
        listing = Listing(files)
    return _originals(_FolderReader(root), listing, str(root), unlabelled)


def open_archive(file: StoragePath, *, unlabelled: bool = False) -> Originals:
    """The images in an uncompressed tar. Nothing is ever extracted.

    Raises:
        UserError: no tar, compressed, damaged, or its images are in no class folders and not
            ``unlabelled``.
    """
    listing = Listing()
    try:
        with (
            file.filesystem.open_input_file(file.path) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            for member in archive:
                if reason := _objection(member):
                    listing.left_out.append(LeftOut(member.name, reason))
                elif member.isdir():
                    listing.folders.append(_clean(member.name))
                else:
                    where = (member.offset_data, member.size)
                    listing.files.append(File(_clean(member.name), member.size, where))
    except tarfile.TarError as error:
        raise UserError(
            f"{file} cannot be read as a tar: {error}. A compressed one must be decompressed "
            "first, since images are read from it at random."
        ) from error
    return _originals(_ArchiveReader(file), _without_common_folder(listing), str(file), unlabelled)


def _arrange_unlabelled(listing: Listing, source: str) -> Tree:
    """All images of a tree, in whatever folders, as one class without a name.

    Raises:
        UserError: no images.
    """
    left_out = dict(listing.left_out)
    images = images_by_folder(listing.files, left_out)
    files = sorted(file for folder in images.values() for file in folder)
    if not files:
        raise UserError(f"{source.rstrip('/')} holds no images ({FORMATS}).")
    reasons = tuple(LeftOut(path, reason) for path, reason in sorted(left_out.items()))
    return Tree(("",), {TRAIN: [(0, file) for file in files]}, {}, reasons, tuple(listing.notices))


def _originals(reader: Reader, listing: Listing, source: str, unlabelled: bool) -> Originals:
    """Names as they can be printed and stored: those of files need not be UTF-8."""
    listing = Listing(
        [file._replace(path=_printable(file.path)) for file in listing.files],
        [_printable(path) for path in listing.folders],
        [one._replace(path=_printable(one.path)) for one in listing.left_out],
        listing.notices,
    )
    tree = (_arrange_unlabelled if unlabelled else arrange)(listing, source)
    splits = {
        split: sorted(Entry(file.path, label, file.size, file.where) for label, file in images)
        for split, images in tree.splits.items()
    }
    return Originals(reader, tree.classes, splits, tree.left_out, tree.notices)


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _objection(member: tarfile.TarInfo) -> str | None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the archive"
    if member.issym() or member.islnk():
        return "a link"
    if member.issparse() or member.isdev() or not (member.isreg() or member.isdir()):
        return NO_FILE
    return None


def _clean(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _without_common_folder(listing: Listing) -> Listing:
    """Take off the folder that ``tar cf images.tar images`` puts above everything."""
    images = [file.path for file in listing.files if is_image(file.path)]
    tops = {path.split("/")[0] for path in images}
    top = f"{min(tops, default='')}/"
    inner = {path.split("/")[1] for path in images if path.count("/") > 1}
    deep = TRAIN in inner or len(inner) > 1 or all(path.count("/") > 1 for path in images)
    if len(tops) != 1 or tops & {TRAIN, *VALIDATION} or not deep:
        return listing
    return Listing(
        [file._replace(path=file.path.removeprefix(top)) for file in listing.files],
        [path.removeprefix(top) for path in listing.folders if f"{path}/" != top],
        listing.left_out,
    )


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
