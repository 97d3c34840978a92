"""What every source of images promises: the base of all that ``data.path`` can name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ltm_platform.storage.path import is_address

if TYPE_CHECKING:
    from ltm_platform.data.cache import ShardCache
    from ltm_platform.data.image_set import ImageSet


class DataSource(ABC):
    """A data set of one kind, by the ``data.path`` of a job.

    word: what names it in ``data.path``, where that is no path: such as ``digits``.
    cacheable: its files may be copied to a node's own disk first (``data.cache``).
    notices: after `open`, what a user should know of the set, in sentences.

    path: as the job has it.
    cache: a folder of this machine for what a source downloads or generates once.
    """

    word: ClassVar[str | None] = None
    cacheable: ClassVar[bool] = False
    notices: tuple[str, ...] = ()

    def __init__(self, path: str, cache: Path) -> None:
        self.path = path
        self.cache = cache

    @classmethod
    def claims(cls, path: str) -> bool:
        """Whether ``path`` names a data set of this kind."""
        return path == cls.word

    @property
    def absolute_path(self) -> str:
        """``path`` as it reads in any folder: workers run in folders of their own."""
        if self.word is not None or is_address(self.path):
            return self.path
        return str(Path(self.path).expanduser().resolve())

    @abstractmethod
    def open(
        self, *, val_fraction: float, copies: ShardCache | None = None
    ) -> tuple[ImageSet, ImageSet]:
        """Training and validation images, over the same classes.

        val_fraction: share of the images that validates, where a set has no such part of its own.
        copies: where files are copied before they are read, for a `cacheable` source.

        Raises:
            UserError: there is nothing, or not what it should be; the sentence says what to do.
        """

    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels, without a look at the images.

        Raises:
            UserError: as `open`.
        """
