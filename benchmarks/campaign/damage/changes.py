"""What happens to files: by disks, by hands, by programs that were not meant for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Change = Callable[[random.Random, bytes], bytes]


def _flip(draw: random.Random, data: bytes) -> bytes:
    """One to eight bits."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _truncate(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.choice([0, len(data) - 1, draw.randrange(len(data))])]


def _zero(draw: random.Random, data: bytes) -> bytes:
    """A block of zeros, as a disk gives that never wrote it."""
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.choice([1, 512, 4096, len(data)]))
    return data[:start] + bytes(end - start) + data[end:]


def _append(draw: random.Random, data: bytes) -> bytes:
    return data + draw.randbytes(draw.randint(1, 64))


def _repeat(draw: random.Random, data: bytes) -> bytes:
    """A piece comes twice, as after a write that was tried again."""
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.randint(1, 64))
    return data[:end] + data[start:]


def _drop(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randint(1, 64) :]


CHANGES: dict[str, Change] = {
    "flip": _flip,
    "truncate": _truncate,
    "zero": _zero,
    "append": _append,
    "repeat": _repeat,
    "drop": _drop,
}


def change(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    """What was done, and other bytes than ``data``, which has one at least."""
    while True:
        name = draw.choice(list(CHANGES))
        changed = CHANGES[name](draw, data)
        if changed != data:
            return name, changed


_ODD_VALUES = (None, True, -1, 0, 1, 1e300, "", "nonsense", [], {}, "\u0000", 2**70)


def change_json(draw: random.Random, data: bytes) -> tuple[str, bytes] | None:
    """The same for one value of a JSON file; None if it is none."""
    try:
        tree = json.loads(data)
    except ValueError:
        return None
    places = list(_places(tree))
    if not places:
        return None
    for _ in range(20):
        holder, key = draw.choice(places)
        old = holder[key]
        kind = draw.choice(["odd", "near", "remove", "double"])
        if kind == "remove":
            del holder[key]
        elif kind == "double" and isinstance(holder, dict):
            holder[f"{key}_"] = old
        elif kind == "near" and isinstance(old, int | float) and not isinstance(old, bool):
            holder[key] = old + draw.choice([-1, 1, 0.5])
        elif kind == "near" and isinstance(old, str) and old:
            place = draw.randrange(len(old))
            holder[key] = old[:place] + draw.choice("abc019_") + old[place + 1 :]
        else:
            holder[key] = draw.choice(_ODD_VALUES)
        changed = json.dumps(tree).encode()
        if changed != json.dumps(json.loads(data)).encode():
            return f"{kind} {key}", changed
    return None


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every holder of a value with the value's key."""
    pairs: list[tuple[Any, Any]] = []
    items: Any = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    for key, value in items:
        pairs += [(tree, key), *_places(value)]
    return pairs


def replace(file: Path, data: bytes) -> None:
    """Write the file anew: what was there may be linked from elsewhere."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def swap(first: Path, second: Path) -> None:
    """Exchange two files."""
    one, other = first.read_bytes(), second.read_bytes()
    replace(first, other)
    replace(second, one)


def linked(source: Path, target: Path) -> None:
    """A copy of a folder, whose files are those of ``source`` until one is replaced."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)


def any_of(draw: random.Random, found: Sequence[Path]) -> Path:
    """One of some files."""
    return draw.choice(sorted(found))
