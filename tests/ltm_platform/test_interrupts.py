from __future__ import annotations

import signal
import sqlite3
import sys
import threading
import weakref
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from ltm_platform.interrupts import interrupts_held, interrupts_ignored, no_interrupt_lost
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_interrupt_is_raised_when_the_block_has_ended(interrupt: Callable[[], None]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        interrupt()
        done.append("the rest")
    assert done == ["the rest"]
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_an_interrupt_that_is_ignored_is_raised_never(interrupt: Callable[[], None]) -> None:
    with interrupts_ignored(), interrupts_held():
        interrupt()


def test_an_interrupt_in_a_callback_of_python_is_raised_after_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = sys.unraisablehook
    try:
        with pytest.raises(KeyboardInterrupt), no_interrupt_lost():
            last = set[int]()
            callback = weakref.ref(last, interrupted)
            del last
            assert callback() is None
            threading.Event().wait(60)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert sys.unraisablehook is hook
    assert "Traceback" not in capfd.readouterr().err


def test_an_interrupt_within_a_transaction_leaves_no_lock(
    store: str, interrupt: Callable[[], None]
) -> None:
    client = connect(store)
    run_id = client.create_run("0").info.run_id

    def interrupted(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO tags"):
            interrupt()

    event.listen(Engine, "after_cursor_execute", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.set_tag(run_id, "key", "value")
    finally:
        event.remove(Engine, "after_cursor_execute", interrupted)
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"), timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
    assert client.get_run(run_id).data.tags["key"] == "value"
