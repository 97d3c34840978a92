"""Which files of a tree are images, and of which class and split: one rule for whoever reads it."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ltm_platform.errors import UserError
from ltm_platform.storage.search import Search, check_filesystem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".tif", ".tiff", ".webp"),
    *(".bmp", ".dib", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx", ".qoi", ".sgi"),
)
FORMATS = "JPEG, PNG, GIF, TIFF, WebP, BMP, AVIF, JPEG 2000, PPM, TGA, PCX, QOI or SGI"
EXPECTED = "train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg alone"
TRAIN = "train"
VALIDATION = ("val", "validation")
VALID, TEST = "valid", "test"
"""May be classes, too. Beside train, the validation part where there is none of those names; the
second one only with class folders of its own."""
TEST_TAKEN = (
    "test/ is taken for validation, by which the best checkpoint is chosen, since there is no val/"
)
HIDDEN = "hidden"
OF_THE_SYSTEM = "made by the system or a file browser"
NO_CLASS = "in no class folder"
BESIDE = "beside the folders train and val"
READ_ALREADY = "a link to a folder that is read already"
LEADS_NOWHERE = "a link that leads nowhere"
NO_FILE = "not a plain file"

_OF_THE_SYSTEM = frozenset(
    {
        *("__macosx", "lost+found", "$recycle.bin", "system volume information", "@eadir"),
        *("__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    }
)
_SHOWN_REASONS = 5
_by_path = itemgetter(0)


class File(NamedTuple):
    """A file of a tree: its path below the root with forward slashes, its bytes, and where its
    reader finds it."""

    path: str
    size: int = 0
    where: Any = None


class LeftOut(NamedTuple):
    """A file, or a whole folder, that is no image of the data set, and why."""

    path: str
    reason: str


@dataclass
class Listing:
    """What lies below a root, in any order."""

    files: list[File] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Those that are known, since archives and stores need not name them."""
    left_out: list[LeftOut] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """The images of a data set."""

    classes: tuple[str, ...]
    splits: dict[str, list[tuple[int, File]]]
    """``train``, and ``val`` where the tree has one: label and file, by label and then by path."""
    folders: dict[str, str]
    """The folder of each split; empty where the tree has class folders alone."""
    left_out: tuple[LeftOut, ...]
    notices: tuple[str, ...]
    """What a user should know of it, in sentences."""


def list_folder(root: str, *, sizes: bool = False) -> Listing:
    """All that lies below a local folder.

    A link to a folder is followed where a class folder may lie; deeper, unless that folder is read
    already: so a link to a folder around it does not make the tree endless.

    sizes: whether the sizes of files are wanted, too.

    Raises:
        UserError: a folder cannot be read.
    """
    check_filesystem(Path(root))
    walk = _Walk(root, sizes)
    try:
        walk.go_on("")
        while walk.links:
            walk.follow(heapq.heappop(walk.links))
    except OSError as error:
        raise _unreadable(error.filename or root, error) from None
    return walk.found


class _Walk:
    """Real folders first, then those behind links in the order of their paths, which is the same
    on every machine."""

    def __init__(self, root: str, sizes: bool) -> None:
        self.found = Listing()
        self.links: list[str] = []  # a heap
        self._root, self._sizes = root, sizes
        self._search = Search(root)
        self._seen: set[tuple[int, int]] = set()
        self._targets: dict[str, str] = {}

    def go_on(self, start: str) -> None:
        """Add what lies below ``start``; links to folders are only noted."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            where = os.path.join(self._root, folder)
            self._seen.add(_identity(where))
            with os.scandir(where) as there:
                entries = list(there)
                images = sum(entry.name.lower().endswith(EXTENSIONS) for entry in entries)
                self._search.saw(len(entries), images)
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if self._add(path, entry):
                        waiting.append(path)

    def _add(self, path: str, entry: os.DirEntry[str]) -> bool:
        """Whether it is a folder to go on with."""
        if entry.is_dir():
            if entry.is_symlink() and not _junk(entry.name):
                heapq.heappush(self.links, path)
                return False
            self.found.folders.append(path)
            return not _junk(entry.name)
        if entry.is_file():
            size = entry.stat().st_size if self._sizes else 0
            self.found.files.append(File(path, size, path))
        else:
            reason = LEADS_NOWHERE if entry.is_symlink() else NO_FILE
            self.found.left_out.append(LeftOut(path, reason))
        return False

    def follow(self, path: str) -> None:
        """Add what lies behind a link to a folder."""
        where = os.path.join(self._root, path)
        target, around = os.path.realpath(where), os.path.realpath(os.path.dirname(where))
        inside = os.path.realpath(self._root)
        if f"{around}/".startswith(f"{target}/") or (
            not _may_be_class(path) and _identity(target) in self._seen
        ):
            self.found.left_out.append(LeftOut(path, READ_ALREADY))
            return
        twin = self._targets.setdefault(target, path)
        if twin == path and f"{target}/".startswith(f"{inside}/"):
            twin = os.path.relpath(target, inside)
        if twin != path:
            self.found.notices.append(
                f"{where} is a link to the folder of {twin}: its images count twice"
            )
        self.found.folders.append(path)
        self.go_on(path)


def _may_be_class(path: str) -> bool:
    """Whether a class or a split could lie there."""
    first, *rest = path.split("/")
    return not rest or (len(rest) == 1 and first in (TRAIN, *VALIDATION, VALID, TEST))


def _identity(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def arrange(listing: Listing, source: str) -> Tree:
    """Classes and images of a tree; everything else is left out, by name and with the reason.

    ``source``: how it is called in errors.

    Raises:
        UserError: no images, a class without any, a training part missing, or splits with
            different classes.
    """
    source = source.rstrip("/")
    left_out = dict(listing.left_out)
    images = images_by_folder(listing.files, left_out)
    known = [path for path in listing.folders if not _left_out(path, left_out)]
    folders = _split_folders([path for path in (*known, *images) if path], source)
    found: dict[str, dict[str, list[File]]] = {split: {} for split in folders or (TRAIN,)}
    split_of = {folder: split for split, folder in folders.items()}
    beside: set[str] = set()
    for folder, files in images.items():
        split, name = _place(folder, split_of)
        if split and name:
            found[split].setdefault(name, []).extend(files)
            continue
        beside |= {folder.split("/")[0]} - {"", *split_of}
        reason = BESIDE if folder and not split else NO_CLASS
        left_out |= {file.path: reason for file in files}
    for path in known:
        split, name = _place(path, split_of)
        if split and name:
            found[split].setdefault(name, [])
    if beside and folders.keys() == {TRAIN}:
        raise UserError(
            f"{source} has {TRAIN}/ without val/, but other folders with images: {_some(beside)}; "
            f"expected {EXPECTED}."
        )
    _check(found, folders, source, left_out)
    classes = tuple(sorted(found[TRAIN]))
    return Tree(
        classes,
        {split: _labelled(classes, of_class) for split, of_class in found.items()},
        folders,
        tuple(LeftOut(*item) for item in sorted(left_out.items())),
        (*listing.notices, *([TEST_TAKEN] if TEST in folders.values() else ())),
    )


def summary(left_out: Collection[LeftOut]) -> str:
    """In a line, what was left out and why; empty if nothing was."""
    if not left_out:
        return ""
    examples = {one.reason: one.path for one in reversed(list(left_out))}
    counts = Counter(one.reason for one in left_out).most_common()
    parts = [
        f"{count:,} {reason} (such as {examples[reason]})"
        for reason, count in counts[:_SHOWN_REASONS]
    ]
    rest = sum(count for _, count in counts[_SHOWN_REASONS:])
    parts += [f"{rest:,} others"] if rest else []
    return f"{len(left_out):,} left out that are no images of a class: {'; '.join(parts)}"


def all_notices(notices: Iterable[str], left_out: Collection[LeftOut]) -> tuple[str, ...]:
    """``notices``, and the `summary` of what was left out if anything was."""
    return tuple(filter(None, (*notices, summary(left_out))))


def class_folders(root: str) -> tuple[str, ...]:
    """Names of the folders in ``root`` that may be classes, sorted.

    Raises:
        UserError: there are none, or it cannot be read.
    """
    check_filesystem(Path(root))
    try:
        with os.scandir(root) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not _junk(e.name))
    except OSError as error:
        raise _unreadable(root, error) from None
    if not names:
        raise _no_classes(root)
    return tuple(names)


def is_image(path: str) -> bool:
    """Whether a file of this path is taken for an image."""
    return path.lower().endswith(EXTENSIONS) and not any(map(_junk, path.split("/")))


def images_by_folder(files: Iterable[File], left_out: dict[str, str]) -> dict[str, list[File]]:
    """Images by their folders; what is none is added to ``left_out``."""
    images: dict[str, list[File]] = {}
    in_junk: dict[str, bool] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if folder not in in_junk:
            in_junk[folder] = _left_out(folder, left_out)
        if in_junk[folder]:
            continue
        if reason := _junk(name):
            left_out[file.path] = reason
        elif not name.lower().endswith(EXTENSIONS):
            ending = os.path.splitext(name)[1].lower() or "none"
            left_out[file.path] = f"not an image by their ending, {ending}"
        else:
            images.setdefault(folder, []).append(file)
    return images


def _left_out(folder: str, left_out: dict[str, str]) -> bool:
    """Whether ``folder`` lies in, or is, one that is left out; that is added to ``left_out``."""
    parts = folder.split("/")
    for depth, part in enumerate(parts, start=1):
        if reason := _junk(part):
            left_out["/".join(parts[:depth])] = reason
            return True
    return False


def _junk(name: str) -> str | None:
    """Why a file or a folder of this name is none of the user's."""
    if name.startswith("."):
        return HIDDEN
    return OF_THE_SYSTEM if name.lower() in _OF_THE_SYSTEM else None


def _split_folders(paths: Collection[str], source: str) -> dict[str, str]:
    tops = {path.split("/")[0] for path in paths}
    validation = next((name for name in VALIDATION if name in tops), None)
    if TRAIN not in tops:
        if validation:
            raise UserError(
                f"{source} has {validation}/ but no {TRAIN}/ beside it; expected {EXPECTED}."
            )
        return {}
    if validation is None and VALID in tops:
        validation = VALID
    elif validation is None and any(path.startswith(f"{TEST}/") for path in paths):
        validation = TEST
    return {TRAIN: TRAIN} | ({"val": validation} if validation else {})


def _place(folder: str, split_of: dict[str, str]) -> tuple[str | None, str | None]:
    """Split and class of what lies in ``folder``."""
    parts = folder.split("/") if folder else []
    split: str | None = TRAIN
    if split_of:
        split, parts = split_of.get(parts[0]) if parts else None, parts[1:]
    return split, parts[0] if parts else None


def _check(
    found: dict[str, dict[str, list[File]]],
    folders: dict[str, str],
    source: str,
    left_out: dict[str, str],
) -> None:
    where = {split: f"{source}/{folders[split]}" if folders else source for split in found}
    for split, of_class in found.items():
        if not of_class and split == TRAIN and not left_out:
            raise _no_classes(where[split])
        if not any(of_class.values()):
            raise UserError(
                f"{where[split]} holds no image ({FORMATS}) in a class folder; expected {EXPECTED}."
                f"{_why_empty(left_out, folders.get(split, ''))}"
            )
        empty = sorted(name for name, files in of_class.items() if not files)
        if empty:
            more = f", and {len(empty) - 1:,} more classes none either" if empty[1:] else ""
            inside = f"{folders[split]}/{empty[0]}" if folders else empty[0]
            raise UserError(
                f"{where[split]}/{empty[0]} holds no image ({FORMATS}){more}: add some to this "
                f"class or remove the folder.{_why_empty(left_out, inside)}"
            )
    for here in found:
        for there in found:
            extra = found[here].keys() - found[there].keys()
            if extra:
                raise UserError(
                    f"{where[here]} has the class {_some(extra, quoted=True)} that {where[there]} "
                    "lacks; both need the same class folders."
                )


def _no_classes(where: str) -> UserError:
    return UserError(f"{where} holds no class folders with images; expected {EXPECTED}.")


def _unreadable(where: str, error: OSError) -> UserError:
    return UserError(f"{where} cannot be read: {error.strerror or error}.")


def _why_empty(left_out: dict[str, str], folder: str) -> str:
    inside = sorted(path for path in left_out if not folder or path.startswith(f"{folder}/"))
    if not inside:
        return ""
    what = "1 file was" if len(inside) == 1 else f"{len(inside):,} files were"
    return f" There {what} left out, such as {inside[0]} ({left_out[inside[0]]})."


def _some(names: Collection[str], *, quoted: bool = False) -> str:
    first, more = min(names), len(names) - 1
    return (repr(first) if quoted else f"{first}/") + (f" and {more:,} more" if more else "")


def _labelled(classes: tuple[str, ...], of_class: dict[str, list[File]]) -> list[tuple[int, File]]:
    return [
        (label, file)
        for label, name in enumerate(classes)
        for file in sorted(of_class[name], key=_by_path)
    ]
