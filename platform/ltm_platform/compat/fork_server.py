"""multiprocessing's fork server, for processes that need nothing of ``__main__``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from multiprocessing import context, forkserver, popen_forkserver
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.process import BaseProcess


def start(modules: Sequence[str]) -> None:
    """Start the server and have it import ``modules``, once for all the processes that it forks.

    By itself it starts with the first of them.
    """
    forkserver.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


class MainlessProcess(context.ForkServerProcess):
    """A process of the server that does not import ``__main__`` again.

    multiprocessing always does so. In a Ray worker it would import Ray, half a second and 60 MB a
    process; in a script without a guard it would run the script again.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _Popen:  # noqa: N802
        return _Popen(process_obj)


class MainlessContext(context.ForkServerContext):
    """For a ``multiprocessing_context``; it keeps a list of its processes."""

    def __init__(self) -> None:
        self.processes: list[MainlessProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> MainlessProcess:  # type: ignore[override]  # noqa: N802
        process = MainlessProcess(*args, **kwargs)
        self.processes.append(process)
        return process


class _Popen(popen_forkserver.Popen):
    def _launch(self, process_obj: BaseProcess) -> None:
        with _no_main_module():
            super()._launch(process_obj)  # type: ignore[misc]  # typeshed leaves it out


@contextmanager
def _no_main_module() -> Iterator[None]:
    """What a process has to import is read off the module that is there meanwhile."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
