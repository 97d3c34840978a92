"""Run the command line from a bare checkout: ``python cli.py submit jobs/quickstart.yaml``."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
SOURCES = [str(ROOT), str(ROOT / "platform")]

if __name__ == "__main__":
    # Ray's workers are processes of their own and find the packages by the same path.
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*SOURCES, *([inherited] if inherited else [])])
    sys.path[:0] = SOURCES
    from ltm_platform.cli.app import main

    main()
