"""A file or folder here or in an object store, through pyarrow's filesystems."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from ltm_platform.errors import UserError
from ltm_platform.storage.addresses import has_secret, shown

# There an object appears when its upload has ended, so it is never half-written.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_CHUNK = 8 << 20


@dataclass(frozen=True)
class StoragePath:
    """``path`` on ``filesystem``; as text it is that path or the address. Can be pickled."""

    filesystem: fs.FileSystem
    path: str
    text: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> StoragePath:
        address, mark, query = (
            self.text.partition("?") if is_address(self.text) else (self.text, "", "")
        )
        path, address = (f"{whole.rstrip('/')}/{name}" for whole in (self.path, address))
        return replace(self, path=path, text=f"{address}{mark}{query}")

    def is_folder(self) -> bool:
        return self._type() == fs.FileType.Directory

    def is_file(self) -> bool:
        return self._type() == fs.FileType.File

    def exists(self) -> bool:
        return self._type() != fs.FileType.NotFound

    def _type(self) -> fs.FileType:
        return self.filesystem.get_file_info(self.path).type

    def files(self, *, recursive: bool = False) -> list[tuple[str, int]]:
        """Name (below this folder) and size in bytes of every file, sorted; [] if it is none."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = self.filesystem.get_file_info(selector)
        start = len(self.path.rstrip("/")) + 1
        return sorted((i.path[start:], i.size) for i in found if i.type == fs.FileType.File)

    def folders(self) -> list[str]:
        """Names of the folders in this one, sorted; [] if it is none."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return sorted(i.base_name for i in found if i.type == fs.FileType.Directory)

    def read(self) -> bytes:
        with self.filesystem.open_input_stream(self.path) as stream:
            return stream.read()

    def write(self, content: bytes | pa.Buffer) -> None:
        """Write the file whole or not at all, and the folders above it."""
        parent, _, name = self.path.rpartition("/")
        self.filesystem.create_dir(parent, recursive=True)
        if self.filesystem.type_name in _OBJECT_STORES:
            self._put(self.path, content)
            return
        part = f"{parent}/.{name}.part"
        try:
            self._put(part, content)
            self.filesystem.move(part, self.path)
        except BaseException:
            with suppress(OSError):
                self.filesystem.delete_file(part)
            raise

    def _put(self, path: str, content: bytes | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def fetch(self, folder: Path) -> None:
        """Copy this folder's files into the local ``folder``, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        _copy(self.filesystem, self.path, fs.LocalFileSystem(), str(folder))

    def fetch_file(self, file: Path) -> None:
        """Copy this file to the local ``file``."""
        _copy(self.filesystem, self.path, fs.LocalFileSystem(), str(file))

    def put(self, folder: Path) -> None:
        """Copy the files of the local ``folder`` into this one, which is made."""
        self.filesystem.create_dir(self.path, recursive=True)
        _copy(fs.LocalFileSystem(), str(folder), self.filesystem, self.path)

    def delete_folder(self) -> None:
        """Remove the folder with all that is in it, if there is one."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def delete(self) -> None:
        """Remove the file, if there is one."""
        if self.exists():
            self.filesystem.delete_file(self.path)


def _copy(source: fs.FileSystem, path: str, target: fs.FileSystem, to: str) -> None:
    fs.copy_files(
        path, to, source_filesystem=source, destination_filesystem=target, chunk_size=_CHUNK
    )


def is_address(text: str) -> bool:
    """Whether ``text`` is an address such as ``s3://bucket/folder`` rather than a path."""
    return "://" in text


def reason(error: Exception, address: str) -> str:
    """What pyarrow says, unless it may repeat a key."""
    return "" if has_secret(address) else f": {error}"


def storage_path(where: str | Path) -> StoragePath:
    """The file or folder that a path or an address names, whether or not it is there.

    Raises:
        UserError: an address that pyarrow cannot parse or reach.
    """
    text = str(where)
    if not is_address(text):
        # Absolute, because the processes that read do not run in this folder.
        path = str(Path(text).expanduser().absolute())
        return StoragePath(fs.LocalFileSystem(), path, path)
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(
            f"{shown(text)} cannot be read as an address{reason(error, text)} (allowed: a "
            "path, or what pyarrow opens, such as s3://bucket/folder, gs://bucket/folder or file:///folder)."
        ) from error
    except (OSError, ImportError) as error:
        raise UserError(f"{shown(text)} cannot be reached{reason(error, text)}.") from error
    return StoragePath(filesystem, path, text)
