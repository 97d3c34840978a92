"""Damage and kills, many of them, and what must hold after each.

    python benchmarks/campaign.py --kills 100 --damage 1000 --jobs 1000 --seed 1
    python benchmarks/campaign.py --only kill-1-17

Real processes are killed and stopped at random moments of real runs, which are resumed to their end
and compared with the undisturbed run, bit for bit; real files are damaged and read. A report
(--report) keeps the counts and every distinct fault once, with the smallest case that has it; a
further start with the same report and seed goes on with the next cases. docs/recovery.md has more.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.campaign.main import main


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill runs, damage files, see what still holds.")
    parser.add_argument("--kills", type=int, default=0, help="signals to send in this start")
    parser.add_argument(
        "--ray", type=float, default=0.05, help="share of the kills that hit whole commands on Ray"
    )
    parser.add_argument("--damage", type=int, default=0, help="files to damage in this start")
    parser.add_argument("--jobs", type=int, default=0, help="job files to change in this start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("campaign-report.json"))
    parser.add_argument("--only", metavar="CASE", help="repeat this case, and tell its story")
    parser.add_argument(
        "--merge",
        metavar="REPORT",
        type=Path,
        nargs="*",
        default=[],
        help="add the reports of starts with other seeds, which may go on at the same time",
    )
    parser.add_argument("--work", type=Path, help="folder for runs; on a RAM disk it is fastest")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(arguments()))
