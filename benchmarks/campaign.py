"""Damage and kills, many of them, and what must hold after each.

    python benchmarks/campaign.py --kills 100 --damage 1000 --jobs 1000 --seed 1
    python benchmarks/campaign.py --only kill-1-17

Real processes are killed and stopped at random moments of real runs, which are resumed to their end
and compared with the undisturbed run, bit for bit; real files are damaged and read. A report
(--report) keeps the counts and every distinct fault once, with the smallest case that has it; a
further start with the same report and seed goes on with the next cases.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.campaign.main import main

if __name__ == "__main__":
    sys.exit(main())
