"""A network is built from its checkpoint's folder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ltm
from ltm_platform.errors import UserError
from ltm_platform.inference.export import export
from ltm_platform.inference.trained_network import load_network
from ltm_platform.job import JobSpec
from ltm_platform.storage.manifest import JOB_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from ..conftest import MakeCheckpoint


def test_weights_their_average_and_ratios_are_networks_of_their_own(checkpoint: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    networks = [
        load_network(checkpoint),
        load_network(checkpoint, ema=True),
        load_network(checkpoint, ratio=0.5),
    ]
    own, average, half = (network.model(images) for network in networks)
    assert not own.allclose(average)
    assert not own.allclose(half)
    assert networks[2].model.plan != networks[0].model.plan
    assert not networks[0].model.training


def test_a_pruned_network_is_small_and_has_one_ratio(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    overrides = ("model.method=savit", "model.compression_ratio=0.6", "engine.zero_stage=1")
    folder = make_checkpoint(*overrides, ema=True)
    for ema in (False, True):
        network = load_network(folder, ema=ema)
        assert not network.model.gated
        assert ltm.count(network.model).gmacs <= 0.6 * network.model.base_gmacs
    assert export(network, "safetensors", tmp_path / "w.safetensors") == 0
    with pytest.raises(UserError, match="do not come back"):
        load_network(folder, ratio=0.5)


def test_classes_have_the_names_of_the_data(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    for name in ("cat", "dog", "emu"):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
    pets = make_checkpoint(f"data.path={tmp_path / 'pets'}", classes=3)
    assert load_network(pets).classes == ("cat", "dog", "emu")


def test_without_the_data_they_have_numbers(make_checkpoint: MakeCheckpoint) -> None:
    assert load_network(make_checkpoint("data.path=/nowhere", classes=3)).classes == ("0", "1", "2")
    assert load_network(make_checkpoint(classes=3)).classes == ("0", "1", "2")  # not the digits


def test_what_it_began_with_is_not_needed_again(make_checkpoint: MakeCheckpoint) -> None:
    tuned = make_checkpoint()
    job = JobSpec.load(tuned / JOB_FILE, ["model.checkpoint=/gone.pt"])
    (tuned / JOB_FILE).write_text(job.to_yaml())
    assert len(load_network(tuned).classes) == 10


def test_what_is_not_there_is_told(checkpoint: Path, make_checkpoint: MakeCheckpoint) -> None:
    base = make_checkpoint("model.method=none", "model.compression_ratio=null")
    for folder, asked, says in (
        (base, {"ema": True}, "no moving average"),
        (base, {"ratio": 0.5}, "without merging"),
        (checkpoint, {"ratio": 1.5}, r"allowed is a number in \(0, 1\]"),
    ):
        with pytest.raises(UserError, match=says):
            load_network(folder, **asked)


def test_a_file_that_holds_no_weights_is_told(make_checkpoint: MakeCheckpoint) -> None:
    broken = make_checkpoint()
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_network(broken)
