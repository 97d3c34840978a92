"""How the packages are built: private names of others behind one door, folders and files in bounds.

Which package may know which is import-linter's part, see pyproject.toml.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PLATFORM = ROOT / "platform" / "ltm_platform"
LTM = ROOT / "ltm"
SEARCHED = (PLATFORM, LTM)
"""Packages that touch private names behind their doors alone."""
DOORS = (PLATFORM / "compat", LTM / "_compat.py")
DEPENDENCIES = frozenset({"ray", "deepspeed", "mlflow", "torch", "timm"})
HANDED_OUT = {
    "_internal": "ray",
    "_private": "ray",
    "_raylet": "ray",
    "_metric_objs": "mlflow",
    "_load_model": "mlflow",
    "_hp_mapping": "deepspeed",
    "grad_position": "deepspeed",
    "fp32_partitioned_groups_flat": "deepspeed",
    "single_partition_of_fp32_groups": "deepspeed",
    "ds_tensor": "deepspeed",
    "empty_partition_cache": "deepspeed",
    "allreduce_gradients": "deepspeed",
    "__compatible_ops__": "deepspeed",
    "_iterator": "torch",
    "_shutdown_workers": "torch",
    "_new_shared": "torch",
    "_execution_engine": "torch",
    "aug_fn": "timm",
    "_pos_embed": "timm",
    "_ref_window_sizes": "timm",
}
"""Names of objects that a dependency hands out: where they come from cannot be seen in the code."""
LIKE_FILES = ("commands", "methods", "jobs", "benchmarks")
"""Folders of many files of one kind."""
MOST_FILES = 15
MOST_LINES = 400


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name, of every private name of a dependency that the module touches."""
    known: dict[str, str] = {}  # local name -> what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                known[one.asname or one.name.split(".")[0]] = (
                    one.name if one.asname else (one.name.split(".")[0])
                )
                yield from _if_private(node.lineno, one.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                known[one.asname or one.name] = f"{node.module}.{one.name}"
                yield from _if_private(node.lineno, f"{node.module}.{one.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr in HANDED_OUT and not _is_own(node.value):
                yield node.lineno, f"{HANDED_OUT[node.attr]}: {node.attr}"
            base = _dotted(node)
            if base:
                first, _, rest = base.partition(".")
                yield from _if_private(node.lineno, f"{known.get(first, '')}.{rest}")
        elif isinstance(node, ast.Constant) and node.value in HANDED_OUT:
            yield node.lineno, f"{HANDED_OUT[str(node.value)]}: {node.value!r}"


def _if_private(line: int, name: str) -> Iterator[tuple[int, str]]:
    parts = name.split(".")
    if parts[0] in DEPENDENCIES and any(map(is_private, parts)):
        yield line, name


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` of names and attributes alone."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value)):
        return f"{base}.{node.attr}"
    return None


def _is_own(node: ast.expr) -> bool:
    """An object's own attribute, which may have any name."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@pytest.mark.parametrize("package", SEARCHED, ids=lambda path: path.name)
def test_private_names_of_dependencies_are_behind_one_door(package: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules(package)
        if not any(path.is_relative_to(door) for door in DOORS)
        for line, name in private_names(ast.parse(path.read_text()))
    ]
    assert not found, "belongs into compat:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "import ray._private.state",
        "from ray._private.state import state",
        "from ray.train.v2._internal.util import date_str",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch\ntorch._foreach_lerp_(a, b, 0.5)",
        "import torch as t\nt._dynamo.reset()",
        "import mlflow.pytorch\nmlflow.pytorch._load_model(path)",
        "from timm.models import _features",
        "steps = run.data._metric_objs",
        "getattr(parameter, 'ds_tensor', parameter)",
        "def f():\n    import ray\n    ray._raylet.GcsClient()",
    ],
)
def test_a_private_name_is_found(code: str) -> None:
    assert list(private_names(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations",
        "import torch\ntorch.nn.Linear(1, 2).weight.sub_(1)",
        "from ltm.backbones._base import Merging",
        "self._iterator = None",
        "import ray\nray.__version__",
    ],
)
def test_other_names_are_not(code: str) -> None:
    assert not list(private_names(ast.parse(code)))


@pytest.mark.parametrize("package", [PLATFORM, LTM], ids=lambda path: path.name)
def test_no_folder_has_more_files_than_one_can_survey(package: Path) -> None:
    counts = Counter(path.parent for path in modules(package))
    full = {
        str(folder.relative_to(ROOT)): count
        for folder, count in counts.items()
        if count > MOST_FILES and folder.name not in LIKE_FILES
    }
    assert not full


@pytest.mark.parametrize("package", [PLATFORM, LTM], ids=lambda path: path.name)
def test_no_module_is_longer_than_one_can_read(package: Path) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules(package)
    }
    assert not {name: count for name, count in lengths.items() if count > MOST_LINES}
