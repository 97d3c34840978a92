"""Damaged checkpoints and records: `resume` goes on from the same state, or refuses in a sentence,
and removes nothing that is whole; what reads weights reads the same ones, or refuses."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING, Any

from ltm_platform.inference.trained_network import load_network
from ltm_platform.job import JobSpec
from ltm_platform.runs.checkpoint_lookup import find_checkpoint
from ltm_platform.storage.manifest import read_manifest
from ltm_platform.storage.resume_plan import plan_to_resume, repaired_job
from ltm_platform.storage.run_folder import RunFolder

from .. import one_process
from ..cases import Hit
from ..kills import Run
from ..material import NAME, VARIANTS
from .changes import any_of, change, change_json, linked, replace, swap
from .verdict import judge

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from ..material import Material
    from ..report import Outcome

RECORD = "checkpoint_manager_snapshot.json"
STOPPED = Hit(signal.SIGTERM, "evaluation", 3, None, 0.0)
"""After two whole epochs and some steps of the third."""


class CheckpointFiles:
    """Two runs that were stopped; each case damages a copy of the first's folder."""

    def __init__(self, folder: Path, material: Material) -> None:
        self._folder = folder
        one_process.load()
        variant = next(one for one in VARIANTS if one.keep > 2)
        self._runs: list[RunFolder] = []
        for name in ("one", "other"):
            run = Run(material, variant, f"stopped-{name}-{folder.name}")
            ended = run.command("submit", STOPPED)
            assert ended.code == 130, ended.output
            self._runs.append(RunFolder(run.folder))
        self._files = {path.name: _content(path) for path in _checkpoints(self._runs[0].path)}
        self._run_id = self._runs[0].run_id
        plan = plan_to_resume(self._runs[0], None, self._run_id)
        assert not plan.notices, plan.notices
        self._kept = [(one.path.name, one.steps_done, one.metrics) for one in plan.kept]
        self._job = JobSpec.load(self._runs[0].job)
        self._weights = load_network(plan.kept[-1].path).model.state_dict()

    def carry_out(self, draw: random.Random, outcome: Outcome) -> None:
        """Damage a copy of the run's folder, then have it resumed or its weights read."""
        copy = RunFolder(self._folder / NAME)
        shutil.rmtree(copy.path, ignore_errors=True)
        linked(self._runs[0].path, copy.path)
        done = self._damaged(draw, copy.path)
        outcome.story.append(done)
        outcome.counts[f"checkpoints: {done.split()[0]}"] += 1
        self._read_weights(copy.path, outcome, done)
        self._resumed(copy, outcome, done)

    def _read_weights(self, run: Path, outcome: Outcome, done: str) -> None:
        """Of the last checkpoint, as `evaluate`, `predict` and `export` find it by its folder."""

        def weights() -> dict[str, Any]:
            found = find_checkpoint(str(run / self._kept[-1][0]), last=True, uri=None)
            return dict(load_network(found).model.state_dict())

        found = judge(weights, outcome, "reading weights")
        if found is not None and any(
            name not in found or not found[name].equal(value)
            for name, value in self._weights.items()
        ):
            outcome.faults.append(f"other weights are read after: {done}.")

    def _resumed(self, run: RunFolder, outcome: Outcome, done: str) -> None:
        whole = {
            path.name
            for path in _checkpoints(run.path)
            if _content(path) == self._files.get(path.name)
        }

        def planned() -> Any:
            repaired_job(run, self._run_id)
            JobSpec.load(run.job)
            return plan_to_resume(run, None, self._run_id)

        plan = judge(planned, outcome, "resume")
        if plan is None:
            return
        if judge(plan.carry_out, outcome, "resume") is None:
            return
        lost = whole - {path.name for path in _checkpoints(run.path)}
        if lost:
            outcome.faults.append(f"resume removes whole checkpoints {sorted(lost)} after: {done}.")
        said = " ".join(plan.notices)
        kept = [(one.path.name, one.steps_done, one.metrics) for one in plan.kept]
        for one in self._kept:
            if one not in kept and one[0] not in said:
                outcome.faults.append(f"resume does without {one[0]} and is silent after: {done}.")
        if any(one not in self._kept for one in kept):
            outcome.faults.append(f"resume knows a checkpoint that never was after: {done}.")
        last = plan.kept[-1].path if plan.kept else None
        if last and not self._same(last):
            outcome.faults.append(f"resume goes on from another state after: {done}.")
        if judge(lambda: JobSpec.load(run.job), outcome, "the run's job") not in (None, self._job):
            outcome.faults.append(f"resume goes on with another job after: {done}.")

    def _same(self, checkpoint: Path) -> bool:
        """Whether training that goes on from it is the same: its files are those that were written,
        or of another form of the same values."""
        right = self._files[checkpoint.name]
        listed = read_manifest(self._runs[0].path / checkpoint.name).files
        if read_manifest(checkpoint).files != listed:
            return False
        return all((checkpoint / name).read_bytes() == right.get(name) for name in listed)

    def _damaged(self, draw: random.Random, run: Path) -> str:
        checkpoints = _checkpoints(run)
        # The last one is what most depends on.
        folder = checkpoints[-1] if draw.random() < 0.6 else draw.choice(checkpoints)
        files = [path for path in folder.iterdir() if path.is_file()]
        kind = draw.choice(
            ["bytes"] * 5
            + ["manifest"] * 3
            + ["record"] * 3
            + ["files", "folders", "foreign", "job"]
        )
        if kind == "record":
            return self._change(draw, run / RECORD, run, delete=True)
        if kind == "manifest":
            return self._change(draw, folder / "manifest_rank0.json", run, edit=True)
        if kind == "bytes":
            return self._change(draw, any_of(draw, files), run, delete=True)
        if kind == "job":
            return self._change(draw, run / "job.yaml", run)
        if kind == "files":
            first, second = draw.sample(sorted(files), 2)
            swap(first, second)
            return f"swap {first.name} with {second.name}"
        if kind == "folders":
            one, other = draw.sample(checkpoints, 2)
            shutil.rmtree(one)
            linked(other, one)
            return f"copy {other.name} over {one.name}"
        return self._foreign(draw, folder, files)

    def _change(
        self,
        draw: random.Random,
        file: Path,
        run: Path,
        *,
        delete: bool = False,
        edit: bool = False,
    ) -> str:
        name = file.relative_to(run)
        if delete and draw.random() < 0.15:
            file.unlink()
            return f"delete {name}"
        data = file.read_bytes()
        edited = None
        if edit or (file.suffix == ".json" and draw.random() < 0.5):
            edited = change_json(draw, data)
        what, changed = edited or change(draw, data)
        replace(file, changed)
        return f"{'edit' if edited else what} {name} ({what})"

    def _foreign(self, draw: random.Random, folder: Path, files: list[Path]) -> str:
        """Something of another run."""
        theirs = draw.choice(_checkpoints(self._runs[1].path))
        if draw.random() < 0.3:
            shutil.rmtree(folder)
            linked(theirs, folder)
            return f"foreign checkpoint over {folder.name}"
        file = any_of(draw, [path for path in files if (theirs / path.name).exists()])
        replace(file, (theirs / file.name).read_bytes())
        return f"foreign {file.name}"


def _checkpoints(run: Path) -> list[Path]:
    return sorted(path for path in run.glob("checkpoint_*") if path.is_dir())


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
