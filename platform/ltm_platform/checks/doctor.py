"""What of this machine is fine for training, what is not, and what to type."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ltm.errors import first_line
from ltm_platform import tracking
from ltm_platform.checks import compiler_here
from ltm_platform.errors import UserError
from ltm_platform.storage import locations, permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLDEST_PYTHON = (3, 11)
NEEDED_BYTES = 5 * 1024**3
PACKAGES = ("torch", "torchvision", "timm", "deepspeed", "ray", "mlflow")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    fine: bool
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Run one check after another; one that raises has failed."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": python,
        "packages": packages,
        "GPUs": gpus,
        "compiler": compiler,
        "cluster": cluster,
        "MLflow": mlflow,
        "storage": storage,
    }
    for what, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # whatever a broken installation raises
            reason = first_line(error)
            yield Finding(what, False, reason)


def python() -> Iterator[Finding]:
    wanted = ".".join(map(str, OLDEST_PYTHON))
    fine = sys.version_info >= OLDEST_PYTHON
    yield Finding("Python", fine, platform.python_version(), f"install Python {wanted} or newer")


def packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, "not installed", f"pip install {name} -c constraints.txt")


def gpus() -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count()
    if count:
        names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
        yield Finding("GPUs", True, f"{count} x {names}, CUDA {torch.version.cuda}")
        fine = torch.distributed.is_nccl_available()
        found = ".".join(map(str, torch.cuda.nccl.version())) if fine else "not in this torch"
        yield Finding("NCCL", fine, found, "install torch for CUDA from https://pytorch.org")
    elif shutil.which("nvidia-smi"):
        remedy = "install torch for the driver's CUDA from https://pytorch.org, see nvidia-smi"
        yield Finding("GPUs", False, "there is a driver, but torch sees none", remedy)
    else:
        yield Finding("GPUs", True, "none: training runs on the CPU, over gloo")


def compiler() -> Iterator[Finding]:
    found = compiler_here() or "none: nothing but engine.compile wants one, such as g++"
    yield Finding("compiler", True, found)


def cluster() -> Iterator[Finding]:
    from ltm_platform.ray_cluster import local_ray
    from ltm_platform.ray_cluster.address import VARIABLE, Kind, find_address, kind
    from ltm_platform.ray_cluster.jobs_api import JobsClient

    there = local_ray.running()
    address = find_address(None)
    if kind(address) != Kind.CLUSTER:
        yield Finding("cluster", True, f"none in use ({address}): every command starts its own Ray")
        return
    try:
        JobsClient(address)
    except UserError as error:
        remedy = f"see {locations.home()}/ray.log" if there else f"start it, or unset {VARIABLE}"
        yield Finding("cluster", False, str(error), remedy)
    else:
        yield Finding("cluster", True, f"{address} answers")


def mlflow() -> Iterator[Finding]:
    uri = tracking.tracking_uri()
    try:
        tracking.check_usable(uri)
        runs = len(tracking.list_runs(uri))
    except UserError as error:
        yield Finding("MLflow", False, str(error), "mlflow server, or unset MLFLOW_TRACKING_URI")
    else:
        yield Finding("MLflow", True, f"{locations.shown(uri)}, {runs} runs")


def storage() -> Iterator[Finding]:
    root = locations.home()
    permissions.make_folder(root)
    free = shutil.disk_usage(root).free
    found = f"{locations.shown(root)}, {free / 1024**3:.1f} GiB free"
    remedy = f"{locations.HOME_VARIABLE}=FOLDER moves runs, store and cache"
    yield Finding("storage", free >= NEEDED_BYTES, found, remedy)
    others = bool(root.stat().st_mode & 0o007)
    found = f"{'all users of this machine' if others else 'no other user'} can read it"
    yield Finding("privacy", not others, found, f"chmod 700 {root}")
    memory = shutil.disk_usage("/dev/shm").free
    enough = memory >= NEEDED_BYTES // 10
    found = f"{memory / 1024**3:.1f} GiB free in /dev/shm"
    yield Finding("memory", enough, found, "mount it larger, in Docker with --shm-size=8g")
