"""What a user sees in the browser."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import psutil
import pytest

from .conftest import ended, free_port, in_terminal

if TYPE_CHECKING:
    from .conftest import Cli

pytestmark = pytest.mark.slow


def test_the_ui_serves_the_runs_on_the_loopback_address(
    environment: dict[str, str], cli: Cli
) -> None:
    port = free_port()
    child = in_terminal(environment, "ui", "--port", str(port))
    child.expect(f"http://127.0.0.1:{port}")
    with urlopen(f"http://127.0.0.1:{port}/") as page:
        assert "MLflow" in page.read().decode()
    asked = Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 10}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(asked) as answer:
        names = [experiment["name"] for experiment in json.load(answer)["experiments"]]
    assert "Default" in names

    taken = cli("ui", "--port", str(port))
    assert taken.returncode == 2
    assert "--port" in taken.stderr

    child.sendintr()
    child.expect("closed")
    assert ended(child) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_the_server_ends_with_the_command(
    environment: dict[str, str], signum: signal.Signals
) -> None:
    port = free_port()
    child = in_terminal(environment, "ui", "--port", str(port))
    child.expect(f"http://127.0.0.1:{port}")
    servers = psutil.Process(child.pid).children(recursive=True)
    assert servers
    child.kill(signum)
    assert ended(child) == 128 + signum
    _, alive = psutil.wait_procs(servers, timeout=300)
    assert not alive
