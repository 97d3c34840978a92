from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ltm_platform.compat import fork_server

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def look(answers: Connection) -> None:
    """In the process: which modules it has, and what its main one is."""
    main = sys.modules["__main__"]
    answers.send((sorted(sys.modules), getattr(main, "MARK", None)))


def test_a_process_has_what_the_server_imported_and_not_the_main_module() -> None:
    main = sys.modules["__main__"]
    fork_server.start(["colorsys"])
    context = fork_server.MainlessContext()
    ours, theirs = context.Pipe()
    vars(main)["MARK"] = "the main module was imported again"
    try:
        process = context.Process(target=look, args=(theirs,))
        process.start()
        modules, mark = ours.recv()
    finally:
        del vars(main)["MARK"]
    process.join()
    assert process.exitcode == 0
    assert context.processes == [process]
    assert mark is None
    assert "pytest.__main__" not in modules
    assert "__mp_main__" not in modules, "where multiprocessing puts what it imports again"
    assert sys.modules["__main__"] is main
