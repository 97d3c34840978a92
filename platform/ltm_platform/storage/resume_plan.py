"""What is done to a run's storage before the run goes on: decided first, then said, then done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.compat.ray_checkpoints import RECORD_FILE
from ltm_platform.errors import UserError, nearest
from ltm_platform.storage import contact, locations, manifest, permissions
from ltm_platform.storage.checkpoints import BEST_METRIC, MISSING, survey_of
from ltm_platform.storage.path import is_address, storage_path
from ltm_platform.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.storage.checkpoints import StoredCheckpoint, Survey


def restored_folder(name: str, address: str, run_id: str | None = None) -> RunFolder | None:
    """A new folder for a run whose own is lost, from what is in an object store.

    None: nothing of the run, which has ``run_id`` in MLflow, is there.

    Raises:
        UserError: all that is there is damaged, or the store does not answer.
    """
    if not is_address(address):
        return None
    contact.reach(address, "cluster.storage")
    folder = RunFolder(locations.runs() / name)
    survey = survey_of(storage_path(address) / name, folder.path, run_id)
    if not survey.whole:
        for error in survey.damaged.values():
            raise error
        return None
    job = _job_in(survey.whole[-1])
    permissions.make_folder(folder.path)
    folder.store_at(address)
    folder.write_job(job)
    return folder


def repaired_job(folder: RunFolder, run_id: str) -> str | None:
    """See that the run's job is the one that was written, or take that of its newest checkpoint.

    Returns a notice if it had to be taken from there.

    Raises:
        UserError: it is damaged, and there is no whole checkpoint.
    """
    if folder.job_is_whole:
        return None
    what = "damaged" if folder.job.exists() else "missing"
    for one in reversed(survey_of(folder.storage, folder.path, run_id).whole):
        try:
            job = _job_in(one)
        except UserError:
            continue
        folder.write_job(job)
        return (
            f"{folder.job} is {what}: the job of the checkpoint {one.path.name} takes its place; "
            "what was changed by resuming after it is lost"
        )
    raise UserError(
        f"{folder.job} is {what}, and there is no checkpoint that has the job, too: start again "
        "with ltm-platform submit"
    )


def _job_in(checkpoint: StoredCheckpoint) -> str:
    """Raises: UserError: it is damaged."""
    source = checkpoint.source
    return manifest.read_file(source, manifest.JOB_FILE, manifest.read_manifest(source)).decode()


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What is done to a run's storage before it goes on, and the sentences that say so first."""

    notices: tuple[str, ...]
    kept: tuple[StoredCheckpoint, ...]
    """What Ray Train will know, the oldest first; it goes on from the last."""
    removed: tuple[str, ...]
    """Names of folders, the newest first."""
    folder: RunFolder

    def carry_out(self) -> None:
        """Remove what is to go, and write Ray Train's record of the rest."""
        for where in (storage_path(self.folder.path), self.folder.storage):
            for name in self.removed:
                (where / name).delete_folder()
        record = self.folder.storage / RECORD_FILE
        if not self.kept:
            record.delete()
            return
        from ltm_platform.compat.ray_train import checkpoint_record

        found = [(one.path.name, one.metrics) for one in self.kept]
        root, name = self.folder.storage_root, self.folder.name
        record.write(checkpoint_record(root, name, found, BEST_METRIC))


def plan_to_resume(
    folder: RunFolder, start: str | None, run_id: str | None, keep: int | None = None
) -> ResumePlan:
    """See that the checkpoint to resume from is whole, and what else there is. Changes nothing.

    Args:
        start: names an earlier one; what came after it is to be removed. So is what a killed run
            left half-written, and nothing else.
        run_id: of the run in MLflow.
        keep: how many checkpoints the run keeps besides its last; None leaves all. A kill between
            the end of one and its entry in the record leaves one more.

    Raises:
        UserError: there is no such checkpoint, or it is damaged; the one before it is offered.
    """
    survey = survey_of(folder.storage, folder.path, run_id)
    whole, names = survey.whole, [one.path.name for one in survey.whole]
    if start in survey.damaged:
        before = [one for one in whole if one.path.name < start]
        raise _refused(survey.damaged[start], folder, before, run_id)
    if start is not None and start not in names:
        raise UserError(
            f"the run {folder.name!r} has no checkpoint {start!r}{nearest(start, names)}"
            f" (it has {', '.join(names) or 'none'})"
        )
    if start is None and (newest := survey.damaged_newest):
        raise _refused(newest, folder, whole, run_id)
    if survey.gone and not whole:
        raise UserError(
            f"the run {folder.name!r} has lost its checkpoints ({', '.join(survey.gone)}): "
            "start again with ltm-platform submit"
        )
    count = names.index(start) + 1 if start else len(names)
    kept, later = whole[:count], names[count:]
    if kept:
        try:
            kept[-1].checked(run_id)
        except UserError as error:
            raise _refused(error, folder, kept[:-1], run_id) from None
    if start:
        later += [
            name
            for name, error in survey.damaged.items()
            if name > start and isinstance(error, manifest.DamagedCheckpoint)
        ]
    left = {name: error for name, error in survey.damaged.items() if name not in later}
    surplus = _surplus(kept, keep) if keep else []
    return ResumePlan(
        notices=tuple(_notices(survey, kept, later, left)),
        kept=tuple(one for one in kept if one.path.name not in surplus),
        removed=tuple(sorted([*later, *survey.unfinished, *surplus], reverse=True)),
        folder=folder,
    )


def _surplus(kept: Sequence[StoredCheckpoint], keep: int) -> list[str]:
    """Names of those that Ray Train would not have kept: all but the best few and the last."""
    by_score = sorted(kept, key=lambda one: -math.inf if one.top1 is None else one.top1)
    return [one.path.name for one in by_score[:-keep] if one is not kept[-1]]


def _notices(
    survey: Survey,
    kept: Sequence[StoredCheckpoint],
    later: Sequence[str],
    left: dict[str, UserError],
) -> list[str]:
    notices = []
    if survey.problem and (kept or survey.problem != MISSING):
        found = f"{len(kept) + len(later)} checkpoints" if kept else "no checkpoint"
        last = f", the last of step {survey.whole[-1].steps_done}" if kept else ""
        notices.append(
            f"Ray's record of the checkpoints, {RECORD_FILE}, {survey.problem}: it is made again "
            f"from the manifests of {found}{last}"
        )
    if survey.gone:
        notices.append(f"not there any more: {', '.join(survey.gone)}")
    notices += [f"{error}; it is left as it is, and not used" for error in left.values()]
    if later:
        notices.append(f"--from {kept[-1].path.name}: removes what came after: {', '.join(later)}")
    if kept and not isinstance(manifest.read_manifest(kept[-1].source), manifest.Sealed):
        notices.append(manifest.unsealed_notice(kept[-1].source))
    return notices


def _refused(
    error: UserError, folder: RunFolder, before: Sequence[StoredCheckpoint], run_id: str | None
) -> UserError:
    """The error with the way out: the last of those before that is whole."""
    for one in reversed(before):
        try:
            one.checked(run_id)
        except UserError:
            continue
        way = f"ltm-platform resume {folder.name} --from {one.path.name}"
        return UserError(f"{error}; go on from the one before it: {way}")
    return UserError(f"{error}; there is none before it: start again with ltm-platform submit")
