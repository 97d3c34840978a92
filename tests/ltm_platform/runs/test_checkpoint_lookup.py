"""What RUN|CHECKPOINT means where the run was trained on another machine."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ltm_platform.errors import UserError
from ltm_platform.inference.trained_network import load_network
from ltm_platform.job import JobSpec
from ltm_platform.runs.checkpoint_lookup import find_checkpoint, run_of, with_run_weights
from ltm_platform.runs.network_artifacts import log_checkpoint
from ltm_platform.storage.checkpoints import StoredCheckpoint
from ltm_platform.storage.manifest import CLASSES_FILE, JOB_FILE, WEIGHTS_FILE
from ltm_platform.storage.path import storage_path
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import tracked_run
from ltm_platform.tracking.runs import RUN_FOLDER_TAG

from ..storage.sealing import RUN_ID, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..conftest import Run


@pytest.fixture
def elsewhere(store: str, checkpoint: Path, tmp_path: Path) -> str:
    """The store of runs whose folders are not here: one that kept its best weights, and one not."""
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    stored = StoredCheckpoint(checkpoint, {"val/top1": 50.0}, storage_path(checkpoint), 7)
    with tracked_run(job, "kept", tmp_path / "elsewhere" / "kept") as run:
        log_checkpoint(run, "kept", "best", stored, [f"class {n}" for n in range(10)])
    with tracked_run(job, "lost", tmp_path / "elsewhere" / "lost"):
        pass
    return store


def test_the_best_weights_come_from_mlflow(elsewhere: str, checkpoint: Path) -> None:
    fetched = find_checkpoint("kept", last=False, uri=elsewhere)
    network = load_network(fetched, ema=True)
    assert network.classes[3] == "class 3"
    own = load_network(checkpoint, ema=True).model.state_dict()
    assert all(tensor.equal(own[key]) for key, tensor in network.model.state_dict().items())
    record = run_of(fetched, elsewhere)
    assert record
    assert record.name == "kept"
    (fetched / "mark").touch()
    assert (find_checkpoint("kept", last=False, uri=elsewhere) / "mark").exists()  # no second copy


def test_what_is_nowhere_is_told(elsewhere: str) -> None:
    for name, last in (("lost", False), ("kept", True)):
        with pytest.raises(UserError, match=r"neither in its folder .* nor among its artifacts"):
            find_checkpoint(name, last=last, uri=elsewhere)


def test_a_damaged_copy_is_fetched_again(elsewhere: str) -> None:
    fetched = find_checkpoint("kept", last=False, uri=elsewhere)
    flip(fetched / WEIGHTS_FILE)
    assert find_checkpoint("kept", last=False, uri=elsewhere) == fetched
    (fetched / CLASSES_FILE).write_text("[]")
    assert load_network(find_checkpoint("kept", last=False, uri=elsewhere)).classes[3] == "class 3"


def test_a_copy_without_its_seal_is_damage(elsewhere: str, tmp_path: Path) -> None:
    fetched = find_checkpoint("kept", last=False, uri=elsewhere)
    copy = tmp_path / "copy"
    shutil.copytree(fetched, copy)
    assert find_checkpoint(str(copy), last=False, uri=elsewhere) == copy
    (copy / "manifest_rank0.json").unlink()
    with pytest.raises(UserError, match=r"is damaged: manifest_rank0\.json is missing"):
        find_checkpoint(str(copy), last=False, uri=elsewhere)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unseal(path: Path) -> None:
    values = json.loads(path.read_text())
    del values["seal"]
    path.write_text(json.dumps(values))


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "flipped weights": (WEIGHTS_FILE, flip),
    "a flipped job": (JOB_FILE, flip),
    "a flipped manifest": ("manifest_rank0.json", flip),
    "no manifest": ("manifest_rank0.json", lambda path: path.unlink()),
    "no seal": ("manifest_rank0.json", unseal),
    "an empty manifest": ("manifest_rank0.json", lambda path: path.write_text("")),
    "a list for a manifest": ("manifest_rank0.json", lambda path: path.write_text("[]")),
    "no moving average": ("model_ema.safetensors", lambda path: path.unlink()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "CHECKPOINT"),
        ("pareto", "CHECKPOINT"),
        ("predict", "CHECKPOINT", "IMAGE"),
        ("export", "CHECKPOINT", "--format", "safetensors", "--out", "OUT"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_finds_a_damaged_checkpoint_by_name(
    call_here: Run, checkpoint: Path, tmp_path: Path, damage: str, command: tuple[str, ...]
) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    image = tmp_path / "image.png"
    Image.new("RGB", (32, 32)).save(image)
    names = {"CHECKPOINT": str(copy), "IMAGE": str(image), "OUT": str(tmp_path / "w.safetensors")}
    file, harm = DAMAGE[damage]
    harm(copy / file)
    answer = call_here(*(names.get(word, word) for word in command))
    assert answer.code == 2
    assert "checkpoint is damaged: " in answer.err
    assert file in answer.err
    assert "Traceback" not in answer.out + answer.err
    assert not (tmp_path / "w.safetensors").exists()


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> RunFolder:
    """A run with its best and its last checkpoint in its folder."""
    folder = RunFolder(tmp_path / "runs" / "own")
    for step, (name, top1) in enumerate({"checkpoint_1": 60.0, "checkpoint_2": 50.0}.items()):
        shutil.copytree(checkpoint, folder.path / name)
        (folder.path / name / "manifest_rank0.json").unlink()
        files = [path.name for path in (folder.path / name).iterdir()]
        seal(folder.path / name, files, metrics={"val/top1": top1}, steps_done=step)
    return folder


def recorded(folder: RunFolder, store: str) -> str:
    """The run in MLflow, as whose all checkpoints of the folder are sealed; its name."""
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, folder.name, folder.path) as run:
        run.tag(RUN_FOLDER_TAG, str(folder.path))
        folder.belongs_to(run.run_id)
    for path in folder.path.glob("checkpoint_*"):
        values = json.loads((path / "manifest_rank0.json").read_text())
        fields = {key: values[key] for key in ("metrics", "steps_done")}
        seal(path, list(values["files"]), run_id=run.run_id, **fields)
    return folder.name


def test_the_best_or_the_last_is_found_without_rays_record(own: RunFolder, store: str) -> None:
    name = recorded(own, store)
    assert find_checkpoint(name, last=False, uri=store).name == "checkpoint_1"
    assert find_checkpoint(name, last=True, uri=store).name == "checkpoint_2"


def test_a_job_begins_with_a_runs_best_weights(own: RunFolder, store: str) -> None:
    name = recorded(own, store)
    job = JobSpec.load("quickstart", [f"tracking.uri={store}", f"model.checkpoint={name}"])
    assert with_run_weights(job).model.checkpoint == str(own.path / "checkpoint_1")
    with pytest.raises(
        UserError, match=r"--set .*model.checkpoint is 'owm', but .* did you mean 'own'"
    ):
        with_run_weights(job.overridden(["model.checkpoint=owm"]))
    for path in ("gone/own", "own.safetensors", str(own.path)):
        assert with_run_weights(job.replace("model.checkpoint", path)).model.checkpoint == path


def test_a_worse_checkpoint_does_not_take_the_place_of_a_damaged_best(
    own: RunFolder, store: str
) -> None:
    name = recorded(own, store)
    flip(own.path / "checkpoint_1" / "manifest_rank0.json")
    with pytest.raises(UserError, match=r"checkpoint_1 is damaged: .* may be the best of 'own'"):
        find_checkpoint(name, last=False, uri=store)
    assert find_checkpoint(name, last=True, uri=store).name == "checkpoint_2"


def test_another_runs_checkpoint_in_a_runs_folder_is_told(own: RunFolder, store: str) -> None:
    name = recorded(own, store)
    path = own.path / "checkpoint_2"
    files = list(json.loads((path / "manifest_rank0.json").read_text())["files"])
    seal(path, files, run="other", run_id=RUN_ID)
    for target in (name, str(path)):
        with pytest.raises(UserError, match="is of another run, 'other'"):
            find_checkpoint(target, last=True, uri=store)
