"""Images that cannot be decoded: which were met, and how many may be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMED = 3


class BadImage(NamedTuple):
    """An image that cannot be decoded.

    row: the place in its batch that it was to take.
    image: its index in the source.
    sentence: names it, and says why.
    """

    row: int
    image: int
    sentence: str


class BadImages:
    """Those of one part of a data set, each once.

    part: ``training`` or ``validation``.
    images: in that part.
    share: of them that may be bad.
    found: sentence by index.
    """

    def __init__(self, part: str, images: int, share: float) -> None:
        self.part = part
        self._images = images
        self._share = share
        self.allowed = math.floor(share * images + 1e-9)  # 0.29 * 100 is a little less than 29
        self.found: dict[int, str] = {}

    def add(self, found: Mapping[int, str]) -> None:
        """Note what was found.

        Raises:
            UserError: there are more than may be; the first are named.
        """
        self.found.update(found)
        bad = len(self.found)
        if bad <= self.allowed:
            return
        first = [sentence for _, sentence in sorted(self.found.items())[:NAMED]]
        more = f" and {bad - NAMED:,} more" if bad > NAMED else ""
        raise UserError(
            f"{'; '.join(first)}{more}: that is {bad:,} of {self._images:,} {self.part} images, "
            f"and data.allow_bad of {self._share:g} allows {self.allowed:,}."
        )
