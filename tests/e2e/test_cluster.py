"""A Ray that outlives the commands: jobs are sent to it through its Jobs API, as to a cluster."""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform import tracking
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.manifest import check
from ltm_platform.storage.run_folder import RunFolder

from .conftest import command_line, ended, in_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Cli

USUAL_AGENT_PORT = 52365
"""Where the dashboard agent of a Ray with default settings listens."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def user(
    tmp_path_factory: pytest.TempPathFactory, object_store: dict[str, str]
) -> Iterator[dict[str, str]]:
    """A user with a token and runs of their own, and the keys of an object store."""
    home = tmp_path_factory.mktemp("user")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    own = {"LTM_PLATFORM_HOME": str(home / "ltm"), "RAY_AUTH_TOKEN_PATH": str(home / "token")}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in object_store.items():
            patch.setenv(key, value)
        yield kept | object_store | own | {"RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def call(user: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return command_line(user, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def address(call: Cli) -> Iterator[str]:
    """Of the Ray that the user keeps on this machine, though another has the usual port."""
    with closing(socket.socket()) as usual:
        with suppress(OSError):  # another test's Ray has it
            usual.bind(("127.0.0.1", USUAL_AGENT_PORT))
        up = call("cluster", "up", "--local")
        try:
            assert up.returncode == 0, up.stdout + up.stderr
            yield up.stdout.partition("Ray is up on ")[2].split()[0]
        finally:
            down = call("cluster", "down", "--local")
    assert down.stdout == "Ray has ended\n", down.stderr
    assert call("cluster", "down", "--local").returncode == 2


def test_who_has_no_token_is_refused(
    call: Cli, address: str, tiny_job: Path, tmp_path: Path
) -> None:
    assert address.startswith("http://127.0.0.1:")
    other = {"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": "", "LTM_PLATFORM_HOME": str(tmp_path)}
    words = ["submit", str(tiny_job), "--address", address, "--force"]
    for theirs in (other, other | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}):
        refused = call(*words, **theirs)
        assert refused.returncode == 2
        assert "wants a token" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_a_run_is_sent_followed_and_stopped_and_the_next_waits_for_it(
    call: Cli, user: dict[str, str], address: str, tiny_job: Path, bucket: str
) -> None:
    """Checkpoints go to an object store. The first run has both CPUs and computes on one."""
    storage = f"{bucket}/runs"
    both = "cluster.cpus_per_worker=2"
    settings = ("recipe.epochs=500", "model.method=dtem", f"cluster.storage={storage}", both)
    long = [word for setting in settings for word in ("--set", setting)] + ["--name", "sent"]
    sent = call("submit", str(tiny_job), *long, "--detach", OMP_NUM_THREADS="1")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert f"sent is on {address}" in sent.stdout
    assert "logs -f sent" in sent.stdout
    again = call("submit", str(tiny_job), *long, "--detach")
    assert again.returncode == 2
    assert "a run named 'sent' exists already" in again.stderr

    following = in_terminal(user, "logs", "-f", "sent")
    following.expect(r"epoch +1/500  loss .*top-1 .*images/s")
    following.sendintr()
    following.expect("sent is let be")
    assert ended(following) == 0
    shown = call("status", "sent").stdout
    assert "RUNNING" in shown
    assert address in shown

    stored_there = ("--set", f"cluster.storage={storage}", "--set", both)
    queued = call("submit", str(tiny_job), "--name", "queued", *stored_there, "--detach")
    assert queued.returncode == 0, queued.stdout + queued.stderr
    waiting = in_terminal(user, "logs", "-f", "queued")
    waiting.expect("it waits for 2 CPUs: 0 are free now")
    assert "WAITING" in call("status", "queued").stdout

    stopped = call("stop", "sent")
    assert stopped.returncode == 0, stopped.stderr
    assert "sent has ended as KILLED" in stopped.stdout
    store = f"sqlite:///{user['LTM_PLATFORM_HOME']}/mlflow.db"
    check_stored(store, "sent", "KILLED", storage)

    waiting.expect(r"epoch +1/2  loss .*top-1 .*images/s")
    assert ended(waiting) == 0
    check_stored(store, "queued", "FINISHED", storage)
    printed = call("logs", "queued").stdout
    assert "epoch 2/2" in printed
    for line_of_ray in ("TrainingReport(", "Connecting to existing Ray", "training worker group"):
        assert line_of_ray not in printed


def check_stored(store: str, name: str, status: str, storage: str) -> None:
    """The run has ended so, and its last checkpoint is whole."""
    run = tracking.find_run(store, name)
    assert run.status == status
    assert run.folder
    last = stored(RunFolder(Path(run.folder)))[-1]
    assert str(last.source).startswith(f"{storage}/{name}/checkpoint_")
    check(last.fetch())


def test_what_the_head_refuses_is_refused_here(call: Cli, address: str, tiny_job: Path) -> None:
    batch = "recipe.global_batch=64"
    refused = call("submit", str(tiny_job), "--set", "cluster.workers=64", "--set", batch)
    assert refused.returncode == 2
    assert f"is on {address}" in refused.stdout
    assert "cluster.workers is 64" in refused.stdout
    assert "only" in refused.stdout
    assert "Traceback" not in refused.stdout + refused.stderr
