"""What RUN|CHECKPOINT means where the run was trained on another machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.inference.trained_network import load_network
from ltm_platform.job import JobSpec
from ltm_platform.runs.checkpoint_lookup import find_checkpoint, run_of, tracked_folder
from ltm_platform.storage.manifest import CLASSES_FILE
from ltm_platform.tracking import tracked_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def elsewhere(store: str, checkpoint: Path, tmp_path: Path) -> str:
    """The store of runs whose folders are not here: one that kept its best weights, and one not."""
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, "kept", tmp_path / "elsewhere" / "kept") as run:
        run.log_files(sorted(checkpoint.iterdir()), tracked_folder("best"))
        run.log_json([f"class {n}" for n in range(10)], f"{tracked_folder('best')}/{CLASSES_FILE}")
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
