"""What is told of a run, to real commands and a real server."""

from __future__ import annotations

import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from ltm_platform.checks import check_job
from ltm_platform.errors import RunError, UserError
from ltm_platform.events import Failed, StoppedOnRequest
from ltm_platform.job import JobSpec
from ltm_platform.runs.notification import VARIABLE, notifying
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def job(target: str | None) -> JobSpec:
    return JobSpec.load("quickstart").replace("tracking.notify", target)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the command of `writing` has been told, a line each."""
    return tmp_path / "told"


def writing(log: Path) -> str:
    """A command that adds what it reads to a file."""
    program = f"import sys; open({str(log)!r}, 'a').write(sys.stdin.read() + chr(10))"
    return f'{sys.executable} -c "{program}"'


def told(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_command_reads_how_a_run_ended(tmp_path: Path, log: Path) -> None:
    folder = RunFolder(tmp_path / "mine")
    with notifying(job(writing(log)), folder) as notifier:
        notifier.heard(StoppedOnRequest())
        notifier.heard(Failed("rank 1 died"))
        notifier.metrics = {"val/top1": 98.5}
    with pytest.raises(RunError), notifying(job(writing(log)), folder):
        raise RunError("rank 0: ValueError: x\nand more")
    with pytest.raises(KeyboardInterrupt), notifying(job(writing(log)), folder):
        raise KeyboardInterrupt
    interrupted, finished, failed, stopped = told(log)
    assert interrupted["event"] == "interrupted"
    assert interrupted["reason"] == "rank 1 died"
    assert finished["text"] == "mine has finished: top-1 98.50 %"
    assert (finished["run"], finished["metrics"]) == ("mine", {"val/top1": 98.5})
    assert finished["folder"] == str(tmp_path / "mine")
    assert failed["text"] == "mine has failed: rank 0: ValueError: x"
    assert stopped["text"] == "mine was stopped"


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and what is posted to it; it refuses what is posted to /no."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403 if self.path == "/no" else 200)
            self.end_headers()
            posted.append(json.loads(body))

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", posted
        http.shutdown()
        thread.join()


def test_an_address_is_posted_to_also_one_of_the_environment(
    tmp_path: Path,
    server: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, posted = server
    with notifying(job(f"{address}/hook"), RunFolder(tmp_path / "a")):
        pass
    monkeypatch.setenv(VARIABLE, address)
    with notifying(job(None), RunFolder(tmp_path / "b")):
        pass
    assert [one["run"] for one in posted] == ["a", "b"]
    monkeypatch.delenv(VARIABLE)
    with notifying(job(None), RunFolder(tmp_path / "c")):
        pass
    assert len(posted) == 2


def test_what_cannot_be_told_costs_a_run_nothing_and_shows_no_address(
    tmp_path: Path,
    server: tuple[str, list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    targets = [f"{server[0]}/no", "http://127.0.0.1:9/hook", "false", "no-such-program", "http://"]
    for target in targets:
        with notifying(job(target), RunFolder(tmp_path / "mine")):
            pass
    assert len(caplog.messages) == len(targets)
    assert not any(target in message for target in targets for message in caplog.messages)


def test_a_command_that_is_not_there_is_refused_before_anything_starts() -> None:
    check_job(job(f"{sys.executable} -c pass"))
    check_job(job("https://example.org/hook"))
    with pytest.raises(UserError, match=r"tracking.notify is 'nosuch -x', .* no program 'nosuch'"):
        check_job(job("nosuch -x"))
    with pytest.raises(UserError, match=r"tracking.notify is .*No closing quotation"):
        check_job(job("sh -c 'x"))
