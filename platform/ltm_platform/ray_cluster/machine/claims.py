"""Which of this machine's CPUs and GPUs are whose, among the commands that each start a Ray here.

Every Ray on a machine takes all of it for its own: two of them would train on the same GPU. So a
command first claims what its Ray will have, in a file that it keeps locked for as long as it runs:
the system frees the lock however the command ends.
"""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from tenacity import RetryCallState, Retrying, retry_if_result, wait_fixed

from ltm_platform.ray_cluster.embedded import visible_gpus
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ltm_platform.ray_cluster.resources import Resources

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What one command has of this machine."""

    owner: str
    """The name of its run."""
    cpus: float
    gpus: tuple[str, ...]
    """As ``CUDA_VISIBLE_DEVICES`` names them."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a command asks for."""

    owner: str
    """The name of its run, or what it does."""
    cpus: float
    gpus: int


def _folder() -> Path:
    return locations.machine() / "claims"


def claims() -> list[Claim]:
    """Those of commands that still run; what others have left behind is removed.

    To be called by who holds the lock of them all.
    """
    found = []
    for file in sorted(_folder().glob("*.json")):
        lock = FileLock(file.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            values = json.loads(file.read_text())
            found.append(Claim(values["owner"], values["cpus"], tuple(values["gpus"])))
        else:
            file.unlink(missing_ok=True)
            lock.release()
            file.with_suffix(".lock").unlink(missing_ok=True)
    return found


def missing(need: Need, there: Resources, taken: list[Claim]) -> str | None:
    """What is not free now, and who has it; None: it can be had."""
    busy = _busy(taken)
    gpus = sum(gpu not in busy for gpu in visible_gpus(int(there.gpus)))
    cpus = there.cpus - sum(one.cpus for one in taken)
    owners = [one.owner for one in taken if one.gpus]
    wanted = _counted(need.gpus, "GPU")
    if need.gpus <= gpus or not owners:
        owners, wanted = [one.owner for one in taken], _counted(need.cpus, "CPU")
        if need.cpus <= cpus or not owners:
            return None
    return f"{wanted}: {', '.join(owners)} {'has' if len(owners) == 1 else 'have'} them"


def _busy(taken: list[Claim]) -> set[str]:
    return {gpu for one in taken for gpu in one.gpus}


def _counted(count: float, what: str) -> str:
    return f"{count:g} {what}{'' if count == 1 else 's'}"


@contextmanager
def claimed(
    need: Need,
    there: Resources,
    *,
    waits: bool,
    notify: Callable[[str], None] = lambda _: None,
) -> Iterator[Claim]:
    """Claim CPUs and GPUs of this machine until the block ends.

    Args:
        there: all that it has.
        waits: until they are free; else they are taken although another command has them.
        notify: is called with what is missing, and again when that changes.
    """
    _folder().mkdir(parents=True, exist_ok=True)
    own = _folder() / f"{uuid.uuid4().hex}.json"
    lock = FileLock(own.with_suffix(".lock"))

    def attempt() -> Claim | str:
        with FileLock(_folder() / "claims.lock"):
            taken = claims()
            lacking = missing(need, there, taken)
            if lacking and waits:
                return lacking
            claim = Claim(need.owner, need.cpus, _chosen(need.gpus, int(there.gpus), taken))
            lock.acquire()
            own.write_text(json.dumps(asdict(claim)))
            return claim

    said: list[str] = []

    def say(state: RetryCallState) -> None:
        lacking = state.outcome.result() if state.outcome else None
        if isinstance(lacking, str) and lacking not in said[-1:]:
            said.append(lacking)
            notify(lacking)

    lacks = retry_if_result(lambda result: isinstance(result, str))
    claim = Retrying(retry=lacks, wait=wait_fixed(POLL_S), before_sleep=say)(attempt)
    assert isinstance(claim, Claim)
    try:
        yield claim
    finally:
        with FileLock(_folder() / "claims.lock"):
            own.unlink(missing_ok=True)
            lock.release()
            own.with_suffix(".lock").unlink(missing_ok=True)


def _chosen(count: int, there: int, taken: list[Claim]) -> tuple[str, ...]:
    """So many GPUs, those that are free first."""
    busy = _busy(taken)
    return tuple(sorted(visible_gpus(there), key=lambda gpu: gpu in busy)[:count])
