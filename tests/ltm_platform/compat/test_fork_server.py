from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOOKS = """
import sys
def look(name):
    print(name in sys.modules, sys.modules["__main__"].__name__, flush=True)
"""
# Without a guard, so that it would not end if a process imported it again.
SCRIPT = """
print("script", flush=True)
import sys
import looks
from ltm_platform.compat import fork_server
main = sys.modules["__main__"]
fork_server.start(["colorsys"])
context = fork_server.MainlessContext()
process = context.Process(target=looks.look, args=("colorsys",))
process.start()
process.join()
assert process.exitcode == 0
assert context.processes == [process]
assert sys.modules["__main__"] is main
"""


def test_a_process_has_what_the_server_imported_and_not_the_main_module(tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(LOOKS)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Imported again it would be named __mp_main__.
    assert done.stdout == "script\nTrue __main__\n"
