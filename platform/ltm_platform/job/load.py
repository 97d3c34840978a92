"""From a job file's name to its values: find it, follow ``extends``, apply ``--set`` overrides."""

from __future__ import annotations

import os
import re
import stat
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.errors import printable, quoted, shortened
from ltm_platform.errors import UserError, closest, typed
from ltm_platform.job.layer import Layer, Origins
from ltm_platform.job.overlay import laid_over
from ltm_platform.job.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_LARGEST_FILE = 100_000  # bytes; whatever is larger is no job file
_SUFFIXES = ("", ".yaml", ".yml")
_MOST_FILES = 32
_MOST_KEYS = 40  # of a file at its top
_LONGEST_PATH = 200


def read_job(
    name: str | Path,
    overrides: Iterable[str],
    known: Collection[str],
    below: Mapping[str, Any] | None = None,
) -> tuple[Layer, Origins]:
    """The job's values with ``extends`` and overrides applied, not yet checked against JobSpec.

    ``known``: the names at the top of a job. A file that has none of them is not quoted: whatever
    it is, it may be a secret. ``below``: values of fields that are given nowhere.

    Raises:
        UserError: a file is missing, unreadable or not YAML, or ``extends`` runs in a circle.
    """
    path = _find(name, Path())
    layer = Layer(dict(below or {})).under(_read_chain(path, known))
    for override in overrides:
        layer = laid_over(layer, read_override(override, layer))
    if layer.values.get("name") is None:
        layer.values["name"] = _name_from(path)
    return layer, layer.origins_from(_shown(path))


def bundled_folder() -> Path:
    """The job files that come with the package: inside a wheel, or beside a checkout's packages."""
    package = Path(__file__).parents[1]
    inside = package / "jobs"
    return inside if inside.is_dir() else package.parents[1] / "jobs"


def _find(name: str | Path, folder: Path) -> Path:
    """The file that ``name`` means when it is given in ``folder``."""
    wanted = Path(os.path.expanduser(name))
    candidates = [folder / wanted]
    # A bare name, or a path as the documentation writes it, may mean a bundled job.
    if wanted.suffix in _SUFFIXES and str(wanted.parent) in (".", "jobs"):
        file = f"{wanted.stem}.yaml"
        candidates += [folder / "jobs" / file, bundled_folder() / file]
    for path in candidates:
        if os.path.exists(path) and not os.path.isdir(path):
            return path
    missing = candidates[0]
    if os.path.isdir(missing):
        raise UserError(f"{_shown(missing)} is a folder, not a job file")
    bare = wanted.name == str(wanted) and not wanted.suffix
    raise UserError(f"{_shown(missing)} does not exist{_similar(missing, bare)}")


def _similar(missing: Path, bare: bool) -> str:
    """What may be meant instead of a missing file: a job's name for a bare name, else a path."""
    bundled = sorted(file.stem for file in bundled_folder().glob("*.yaml"))
    beside = missing.parent / "jobs" if bare else missing.parent
    names = {stem: stem for stem in bundled}
    names |= {file.stem: file.stem if bare else _shown(file) for file in beside.glob("*.y*ml")}
    match = closest(missing.stem, names)
    hint = f"; did you mean {names[match]!r}?" if match else ""
    return f"{hint} (bundled jobs: {', '.join(bundled)})"


def _read_chain(path: Path, known: Collection[str]) -> Layer:
    """The file with everything that it extends, directly or not, below it."""
    layers: list[Layer] = []
    chain = [path]
    while True:
        if len(chain) > _MOST_FILES:
            raise UserError(f"{_shown(chain[0])} extends more than {_MOST_FILES - 1} files")
        layer = _read_file(path, known)
        layers.append(layer)
        base = layer.values.pop("extends", None)
        if base is None:
            break
        place = layer.origins["extends"]
        if not isinstance(base, str):
            raise UserError(
                f"{place}: extends is {quoted(base)}, but must be the path of a job file"
            )
        try:
            path = _find(base, path.parent)
            if not path.is_file():
                raise UserError(f"{_shown(path)} is not a regular file")
        except UserError as error:
            raise UserError(f"{place}: extends is {quoted(base)}, but {error}") from None
        seen = [earlier.resolve() for earlier in chain]
        chain.append(path)
        if path.resolve() in seen:
            circle = " -> ".join(map(_shown, chain[seen.index(path.resolve()) :]))
            raise UserError(f"{place}: extends runs in a circle: {circle}")
    for base_layer in layers[1:]:
        base_layer.values.pop("name", None)  # a name belongs to one experiment, not to its kin
    merged = Layer()
    while layers:
        top = layers.pop()
        backbone = top.get("model.backbone") or merged.get("model.backbone")
        top.backbones = dict.fromkeys(top.origins, backbone)
        merged = laid_over(merged, top)
    merged.origins.pop("extends", None)
    return merged


def _read_file(path: Path, known: Collection[str]) -> Layer:
    shown = _shown(path)
    try:
        text = _read_text(path, shown)
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}") from None
    names = "|".join([*known, "extends"])
    is_job = re.search(rf"^[{{'\"]?({names})['\"]?\s*:", text, re.MULTILINE) is not None
    value, layer = parse_yaml(text, lambda line: f"{shown}:{line}", quote=is_job)
    if value is None:
        raise UserError(f"{shown} is empty, but a job needs at least model.backbone and data.path")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise UserError(
            f"{shown} holds {kind}, but a job file holds sections such as model: and data:"
        )
    meant = [closest(key, [*known, "extends"]) for key in islice(value, _MOST_KEYS)]
    if sum(near is not None for near in meant) * 2 < len(value):
        like = sorted({near for near in meant if near})
        hint = f"; did you mean {like[0]!r}?" if like else ""
        fields = ", ".join(sorted(known))
        raise UserError(
            f"{shown} is not a job file: its keys are not those of a job ({fields}){hint}"
        )
    return layer


def _read_text(path: Path, shown: str) -> str:
    mode = path.stat().st_mode
    # What a shell hands over, such as /dev/stdin or <(...), has a writer; another pipe may not.
    if not stat.S_ISREG(mode) and path.parts[:2] != ("/", "dev"):
        raise UserError(f"{shown} is not a job file: it is not a regular file")
    with path.open("rb") as file:
        raw = file.read(_LARGEST_FILE + 1)
    if len(raw) > _LARGEST_FILE:
        raise UserError(f"{shown} is not a job file: it is larger than {_LARGEST_FILE} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{shown} is not a job file: it is not UTF-8 text") from None


def read_override(text: str, below: Layer) -> Layer:
    """``section.key=value`` as a layer; the value is read as YAML."""
    origin = f"--set {typed(text)}"
    key, equals, raw = text.partition("=")
    key = key.strip()
    problem = None
    if not equals:
        problem = "there is no '='; write it as section.key=value, e.g. recipe.epochs=10"
    elif not all(re.fullmatch(r"[^\s.]+", part) for part in key.split(".")):
        problem = (
            f"{quoted(key)} is not a key; write it as section.key=value, e.g. recipe.epochs=10"
        )
    elif key == "extends":
        problem = "extends can only be said in a job file"
    if problem:
        return Layer(problems=[f"{origin}: {problem}"])
    parts = key.split(".")
    try:
        value, inner = parse_yaml(raw, lambda _: origin, tuple(parts))
    except UserError as error:
        return Layer(problems=[str(error)])

    outer = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    origins = {section: origin for section in outer if not isinstance(below.get(section), dict)}
    origins[key] = origin
    origins |= inner.origins
    values: Any = value
    for part in reversed(parts):
        values = {part: values}
    return Layer(values, origins, problems=inner.problems)


def _name_from(path: Path) -> str:
    slug = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")
    return slug[:63] or "job"


def _shown(path: Path) -> str:
    """As short as it is clear: from the current folder where the file lies inside it."""
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute)
    shown = absolute if relative.startswith(os.pardir) else relative
    return shortened(printable(shown), _LONGEST_PATH)
