"""What a user sees in a terminal and in the browser."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pexpect

from .conftest import COMMAND, TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli


def test_a_terminal_shows_progress_and_with_v_the_log(
    environment: dict[str, str], tiny_job: Path, home: Path
) -> None:
    arguments = ["submit", str(tiny_job), "--name", "verbose", "-v"]
    child = pexpect.spawn(
        COMMAND[0], arguments, env=environment, encoding="utf-8", timeout=TIMEOUT_S
    )
    child.expect("Started a local Ray instance")
    child.expect(r"epoch 1/2  step \d+.*loss \d.*ce \d.*ib .*images/s.*\d:\d\d")
    child.expect(r"epoch 2/2  loss")
    child.expect("Next:")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "Started a local Ray instance" in (home / "runs" / "verbose" / "run.log").read_text()


def test_the_ui_serves_the_runs_on_the_loopback_address(
    environment: dict[str, str], cli: Cli
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = pexpect.spawn(
        COMMAND[0],
        ["ui", "--port", str(port)],
        env=environment,
        encoding="utf-8",
        timeout=TIMEOUT_S,
    )
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
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
