"""A checksum that lies inside the bytes that it covers: a shard's footer, an import's report.

The place of the SHA-256 holds zeros while it is computed. So a file seals itself, and nothing
beside it has to be kept with it.
"""

from __future__ import annotations

import hashlib

_MARK = b"ltm-sha256:"
_DIGITS = 64
PLACEHOLDER = (_MARK + b"0" * _DIGITS).decode()
"""What is written where the seal goes. Where there are several, the last one is meant."""


def sealed(content: bytes) -> bytes:
    """``content`` with its checksum at its last `PLACEHOLDER`."""
    start = content.rindex(PLACEHOLDER.encode()) + len(_MARK)
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + digest + content[start + _DIGITS :]


def seal_of(content: bytes) -> str | None:
    """The seal in ``content``, or None if there is none.

    Raises:
        ValueError: ``content`` has changed since it was sealed.
    """
    start = content.rfind(_MARK)
    if start < 0:
        return None
    start += len(_MARK)
    seal = content[start : start + _DIGITS]
    blank = content[:start] + b"0" * len(seal) + content[start + _DIGITS :]
    if hashlib.sha256(blank).hexdigest().encode() != seal:
        raise ValueError("it has another checksum than its content")
    return seal.decode()
