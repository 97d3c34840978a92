"""What a call leaves of its process."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from ltm_platform.api.process import restored_process


def test_the_environment_and_the_handlers_are_what_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LTM_TEST_CHANGED", "before")
    monkeypatch.setenv("LTM_TEST_REMOVED", "before")
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)

    @restored_process()
    def call() -> None:
        os.environ.update(LTM_TEST_CHANGED="during", LTM_TEST_NEW="during")
        del os.environ["LTM_TEST_REMOVED"]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            call()
        assert dict(os.environ) == environment
        assert signal.getsignal(signal.SIGTERM) == handler


def test_a_call_within_another_takes_nothing_from_it() -> None:
    """As of a listener, in a thread of its own."""
    before = dict(os.environ)
    with restored_process():
        os.environ["LTM_TEST_OUTER"] = "set"

        def inner() -> None:
            with restored_process():
                os.environ["LTM_TEST_INNER"] = "set"

        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()
        assert os.environ["LTM_TEST_OUTER"] == "set"
    assert dict(os.environ) == before
