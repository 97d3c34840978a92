"""Draw docs/figures/house.svg: `python docs/figures/house.py`.

Rooms and arrows are those of the layers contract in pyproject.toml, which import-linter holds; what
a room is for is said in the table of docs/architecture.md. So the picture cannot disagree with
either: a test compares it with what this script draws.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PICTURE = HERE / "house.svg"
CONTRACT = "who may know whom"

WIDTH, MARGIN, GAP = 840, 20, 12
BOX, ARROW = 58, 22  # heights of a row and of the space below it
CHARACTER = 5.6  # pixels of one in a note, on average


def contracts() -> list[dict]:
    """The contracts of import-linter."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return settings["tool"]["importlinter"]["contracts"]


def layers() -> list[list[str]]:
    """The rooms, highest layer first; those of one layer do not import each other."""
    (contract,) = [one for one in contracts() if one["name"] == CONTRACT]
    return [
        [room.strip().removeprefix("ltm_platform.") for room in layer.split("|")]
        for layer in contract["layers"]
    ]


def libraries() -> dict[str, list[str]]:
    """Rooms that may import a library which almost all others may not; `compat` may, too."""
    rooms = {room for layer in layers() for room in layer} - {"ltm"}
    known: dict[str, list[str]] = {}
    for contract in contracts():
        if contract["type"] == "forbidden":
            sources = {name.removeprefix("ltm_platform.") for name in contract["source_modules"]}
            allowed = rooms - sources - {"compat"}
            if len(allowed) <= 2:
                for room in allowed:
                    known.setdefault(room, []).extend(contract["forbidden_modules"])
    return known


def purposes() -> dict[str, str]:
    """What each room is for, by the table of docs/architecture.md."""
    page = (HERE.parent / "architecture.md").read_text()
    rooms = page.partition("## The rooms")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", rooms, re.MULTILINE))


def box(x: float, y: float, width: float, name: str, note: str, known: list[str]) -> list[str]:
    """A room, what it is for, and the libraries that only it may import."""
    middle = x + width / 2
    fill = "#eef2f7" if name != "ltm" else "#fde9d9"
    label = escape(name)
    if known:
        label += f' <tspan class="library">{escape(", ".join(known))}</tspan>'
    lines = textwrap.wrap(note, int((width - 16) / CHARACTER))
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX}" rx="6" fill="{fill}" '
        'stroke="#445"/>',
        f'<text x="{middle:g}" y="{y + 20:g}" class="label">{label}</text>',
        *(
            f'<text x="{middle:g}" y="{y + 37 + 13 * number:g}" class="note">{escape(line)}</text>'
            for number, line in enumerate(lines)
        ),
    ]


def house() -> str:
    """The picture as SVG.

    Raises:
        KeyError: a room of the contract is not in the table of docs/architecture.md.
    """
    notes, known, rows = purposes(), libraries(), layers()
    height = 2 * MARGIN + len(rows) * (BOX + ARROW) - ARROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif">',
        "<style>.label{text-anchor:middle;font-size:14px}.note{text-anchor:middle;font-size:11px;"
        "fill:#556}.library{font-size:11px;font-style:italic;fill:#a40}</style>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#445"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    y = MARGIN
    for number, row in enumerate(rows):
        if number:
            x = WIDTH / 2
            parts.append(
                f'<path d="M{x:g} {y - ARROW + 2} L{x:g} {y - 2}" stroke="#445" fill="none" '
                'marker-end="url(#head)"/>'
            )
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for column, name in enumerate(row):
            x = MARGIN + column * (width + GAP)
            parts += box(x, y, width, name, notes[name], sorted(known.get(name, [])))
        y += BOX + ARROW
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(house())
