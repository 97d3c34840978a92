"""LTM beside its rivals and controls on real pictures; docs/study.md is the protocol.

    python benchmarks/study.py --make mnist clipart --home study
    python benchmarks/study.py --home study --hours 10
    python benchmarks/study.py --home study --show
    python benchmarks/study.py --quick

--make turns sets of pictures into shards, once. Then every network is an MLflow run of the
platform (`ltm_platform.api`), kept as a line of study.jsonl, so that the study can be stopped and
gone on with at any time. --show prints the tables and verdicts of what there is. --quick is the
whole way on the bundled digits, with one seed, a few methods and an epoch each.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.study import report, sets
from benchmarks.study.cells import (
    CORE_SETS,
    OFF_THE_SHELF,
    OURS,
    PARTS,
    REGIMES,
    RIVALS,
    SEEDS,
    WITHOUT_IB,
    Cell,
    base,
    cells,
)
from benchmarks.study.own_ray import own_ray
from benchmarks.study.pictures import draw
from benchmarks.study.runs import Place, carry_out, stored

ROOT = Path(__file__).parents[1]


def make(name: str, home: Path) -> None:
    """Pictures of a set as shards, by `data import`."""
    pictures = home / "pictures" / name
    shutil.rmtree(pictures, ignore_errors=True)
    counts = sets.store(sets.SETS[name](), pictures)
    for part in ("main", "test"):
        target = home / "shards" / name / part
        target.parent.mkdir(parents=True, exist_ok=True)
        words = ["data", "import", str(pictures / part), str(target)]
        subprocess.run([sys.executable, str(ROOT / "cli.py"), *words], check=True)
    print(f"{name}: {counts}")


def show(found: dict[Cell, dict[str, Any]]) -> None:
    print(report.table(found))
    for regime in REGIMES:
        for part in sorted({cell.part for cell in found}, reverse=True):
            for ours in OURS:
                rivals = ("none", *RIVALS, "smaller", *((WITHOUT_IB,) if ours == "ltm" else ()))
                claims = report.compare(found, regime, part, ours, rivals)
                if claims:
                    print("\n" + report.verdicts(claims))
    hours = sum(row["seconds"] for row in found.values()) / 3600
    print(f"\n{len(found)} networks, {hours:.1f} hours")


def run(wanted: list[Cell], place: Place, hours: float) -> None:
    place.home.mkdir(parents=True, exist_ok=True)
    with own_ray(place.home / "runs"):
        left = carry_out(wanted, place, time.monotonic() + 3600 * hours)
    done = len(wanted) - left
    print(f"{done} of {len(wanted)} networks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path("study"), help="data, runs and results")
    parser.add_argument("--make", nargs="+", choices=sets.SETS, default=[], metavar="SET")
    parser.add_argument("--sets", nargs="+", choices=sets.SETS, default=CORE_SETS, metavar="SET")
    parser.add_argument("--parts", nargs="+", type=float, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--hours", type=float, default=1.0, help="no network is begun after these")
    parser.add_argument("--show", action="store_true", help="print what there is, and run nothing")
    parser.add_argument("--picture", type=Path, help="draw what is merged on clipart, and no more")
    parser.add_argument("--quick", action="store_true", help="the whole way in minutes")
    args = parser.parse_args()
    if args.quick:
        with TemporaryDirectory(prefix="ltm-study-") as folder:
            place = Place(Path(folder).resolve())
            first = Cell("digits", "fine-tuned", "ltm", 0.65, 0)
            other = Cell("digits", OFF_THE_SHELF, "tome", 0.65, 0)
            run([base("digits", 0), other, first], place, args.hours)
            show(stored(place))
        return
    place = Place(args.home.resolve())
    for name in args.make:
        make(name, place.home)
    if args.picture:
        draw(stored(place), place, "clipart", args.picture)
    elif args.show:
        show(stored(place))
    elif not args.make:
        run(cells(tuple(args.sets), tuple(args.seeds), tuple(args.parts)), place, args.hours)


if __name__ == "__main__":
    main()
