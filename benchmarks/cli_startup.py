"""How long ``ltm-platform --help`` takes, as a whole process: the target is under 0.5 s.

python benchmarks/cli_startup.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [str(Path(sys.executable).with_name("ltm-platform")), "--help"]


def seconds() -> float:
    start = time.perf_counter()
    subprocess.run(COMMAND, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    seconds()  # writes bytecode, fills the file cache
    times = [seconds() for _ in range(args.runs)]
    print(
        f"ltm-platform --help: {statistics.median(times):.3f} s "
        f"(median of {args.runs}, {min(times):.3f} to {max(times):.3f} s)"
    )


if __name__ == "__main__":
    main()
