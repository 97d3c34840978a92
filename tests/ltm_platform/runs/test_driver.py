"""How the owner of a run is ended."""

from __future__ import annotations

import os
import signal

import pytest

from ltm_platform.runs.driver import sigterm_is_interrupt


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_interrupts_also_what_a_shell_started_in_the_background(
    before: signal.Handlers,
) -> None:
    usual = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_is_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, usual)
