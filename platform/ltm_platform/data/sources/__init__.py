"""Where images come from, one class a source; a new one is one file here and its name below.

Another package adds a source by an entry point of the group `ENTRY_POINTS`.
"""

from __future__ import annotations

from pathlib import Path

from ltm import plugins
from ltm.errors import PluginError
from ltm_platform.data.source import DataSource
from ltm_platform.data.sources.digits import Digits
from ltm_platform.data.sources.folder import Folder
from ltm_platform.data.sources.shards import Shards
from ltm_platform.errors import UserError, nearest
from ltm_platform.storage import contact
from ltm_platform.storage.addresses import shown
from ltm_platform.storage.path import is_address

ENTRY_POINTS = "ltm_platform.sources"


def list_sources() -> tuple[type[DataSource], ...]:
    """All sources, in the order in which they are tried for a path.

    Raises:
        UserError: one of another package cannot be loaded, or is none.
    """
    return (Digits, *_installed(), Shards, Folder)


def find_source(path: str, cache: Path) -> DataSource:
    """The source that ``path`` names, not opened yet.

    Raises:
        UserError: it names none.
    """
    for source in list_sources():
        if source.claims(path):
            return source(path, cache)
    raise UserError(_missing(path))


def reach_store(path: str, field: str = "") -> None:
    """First contact with the store of an address, unless a source of another package knows it.

    field: the field or the argument that has it, where no caller adds it.

    Raises:
        ReadError: it does not answer in time, or refuses; see `contact.reach`.
    """
    if is_address(path) and not any(source.claims(path) for source in _installed()):
        contact.reach(path, field)


def _installed() -> list[type[DataSource]]:
    try:
        found = {name: plugins.load(ENTRY_POINTS, name) for name in plugins.names(ENTRY_POINTS)}
        for name, source in found.items():
            if not (isinstance(source, type) and issubclass(source, DataSource)):
                wanted = f"{DataSource.__module__}.{DataSource.__name__}"
                raise plugins.broken(ENTRY_POINTS, name, f"is {source!r}, which is no {wanted}")
    except PluginError as error:
        raise UserError(str(error)) from error
    return list(found.values())


def _missing(path: str) -> str:
    if is_address(path):
        return f"{shown(path)} not found: there is no such folder in that store."
    given = Path(path).expanduser()
    where = "" if given.is_absolute() else f" in {Path.cwd()}"
    what = f"{path}{where} is not a folder" if given.exists() else f"{path} not found{where}"
    if "imagenet" in path.lower():
        return (
            f"{what}: for ImageNet-1k register at https://image-net.org, unpack it as "
            "train/<class>/*.JPEG and val/<class>/*.JPEG, and pass --set data.path=FOLDER."
        )
    words = [source.word for source in list_sources() if source.word is not None]
    return (
        f"{what}: pass --set data.path=FOLDER with a folder of train/<class>/*.jpg and "
        "val/<class>/*.jpg (or <class>/*.jpg alone), a folder of shards, or the word "
        f"{' or '.join(map(repr, words))}"
        f"{nearest(path, words)}."
    )
