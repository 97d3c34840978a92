"""The networks that a job describes: start weights, frozen parts, teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltm.errors import FieldError
from ltm_platform.job import JobSpec
from ltm_platform.models import (
    create_model,
    create_teacher,
    freeze,
    load_start,
    structure_cost,
    with_weights,
)

from .storage.sealing import seal

CLASSES = 10


def job(**fields: Any) -> JobSpec:
    model = {"backbone": "vit_nano_patch4_32", "image_size": 32, "compression_ratio": 0.7}
    values = {"model": model, "data": {"path": "digits"}}
    spec = JobSpec.from_dict(values)
    for key, value in fields.items():
        spec = spec.replace(key.replace("__", "."), value)
    return spec


def network(spec: JobSpec, *, seed: int = 0, classes: int = CLASSES) -> Any:
    torch.manual_seed(seed)
    return create_model(spec, classes)


def stored(path: Path, *, classes: int = CLASSES, spec: JobSpec | None = None) -> Path:
    """Weights of a network that no test begins with."""
    state = network(spec or job(), seed=5, classes=classes).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def run(folder: Path) -> Path:
    """A run's checkpoint."""
    folder.mkdir()
    stored(folder / "model.safetensors")
    (folder / "job.yaml").write_text(job().to_yaml())
    seal(folder, ["model.safetensors", "job.yaml"])
    return folder


# --- start weights


@pytest.mark.parametrize("kind", ["w.safetensors", "w.pt", "run"])
def test_a_network_starts_from_stored_weights(tmp_path: Path, kind: str) -> None:
    path = run(tmp_path / kind) if kind == "run" else stored(tmp_path / kind)
    model = network(job())
    assert load_start(model, job(model__checkpoint=str(path))) is False
    expected = network(job(), seed=5).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_the_classifier_starts_anew_for_other_classes(tmp_path: Path) -> None:
    path = stored(tmp_path / "w.safetensors", classes=7)
    model, start = network(job()), network(job()).state_dict()
    assert load_start(model, job(model__checkpoint=str(path))) is True
    expected = network(job(), seed=5, classes=7).state_dict()
    for key, tensor in model.state_dict().items():
        kept = key in ("head.weight", "head.bias")
        assert torch.equal(tensor, start[key] if kept else expected[key]), key


def test_without_a_checkpoint_nothing_changes() -> None:
    model = network(job())
    assert load_start(model, job()) is False
    assert torch.equal(model.head.weight, network(job()).head.weight)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_holds_no_weights_is_refused(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^checkpoint is '.*', which cannot be read as weights"):
        load_start(network(job()), job(model__checkpoint=str(path)))


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harmed",)

    torch.save({"head.weight": Harm()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_start(network(job()), job(model__checkpoint=str(tmp_path / "w.pt")))
    assert not (tmp_path / "harmed").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = job(model__backbone="vit_micro_patch4_32")
    path = stored(tmp_path / "w.safetensors", spec=other)
    with pytest.raises(ValueError, match=r"has unknown|misshapes"):
        load_start(network(job()), job(model__checkpoint=str(path)))


# --- networks without some of their heads and units


def pruning(ratio: float, **fields: Any) -> JobSpec:
    return job(model__method="savit", model__compression_ratio=ratio, **fields)


def test_pruning_starts_from_a_whole_network(tmp_path: Path) -> None:
    spec = job(model__method="none", model__compression_ratio=None)
    path = stored(tmp_path / "w.safetensors", spec=spec)
    model = network(pruning(0.5))
    assert load_start(model, pruning(0.5, model__checkpoint=str(path))) is False
    assert torch.equal(
        model.blocks[0].mlp.fc1.weight, network(spec, seed=5).blocks[0].mlp.fc1.weight
    )
    # what stays is chosen by the weights that were loaded
    largest = model.parts()[1].magnitude().argsort(descending=True)[: model.plan["blocks.0.mlp"]]
    assert model.blocks[0].mlp.norm.kept[largest].all()


def test_pruning_goes_on_from_a_pruned_network(tmp_path: Path) -> None:
    path = stored(tmp_path / "w.safetensors", spec=pruning(0.6))
    model = network(pruning(0.4))
    load_start(model, pruning(0.4, model__checkpoint=str(path)))
    before = network(pruning(0.6)).plan
    assert {part.name: part.size for part in model.parts()} == before
    assert model.gmacs_of(model.plan) <= 0.4 * model.base_gmacs
    small = with_weights(network(pruning(0.4)), model.state_dict())
    assert small.plan == model.plan
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(images), model.eval()(images))
    assert structure_cost(small, 32)["model/gmacs"] == pytest.approx(model.gmacs_of(model.plan))


# --- frozen parts


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["patch_embed"], lambda name: name.startswith("patch_embed.")),
        (["blocks.1", "pos_embed"], lambda n: n.startswith("blocks.1.") or n == "pos_embed"),
        (["*.norm1"], lambda name: ".norm1." in name),
        (["blocks.*.attn.qkv.bias"], lambda name: name.endswith("attn.qkv.bias")),
        ([], lambda _: False),
    ],
)
def test_patterns_freeze_what_they_name(patterns: list[str], frozen: Any) -> None:
    model = network(job())
    freeze(model, patterns)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != frozen(name), name
    assert all(parameter.requires_grad for parameter in model.parameters()) == (not patterns)


def test_a_part_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"freeze holds 'path_embed'.*did you mean 'patch_embed'"):
        freeze(network(job()), ["path_embed"])
    with pytest.raises(ValueError, match=r"freeze holds 'blocks\.9', .*its largest parts: "):
        freeze(network(job()), ["blocks.9"])


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(network(job()), ["*"])


# --- teachers


@pytest.mark.parametrize("kind", ["named", "run"])
def test_a_teacher_has_its_stored_weights(tmp_path: Path, kind: str) -> None:
    if kind == "run":
        spec = job(recipe__distill__teacher=str(run(tmp_path / "run")))
        source = job()
    else:
        source = JobSpec.from_dict(
            job().to_dict()
            | {"model": {"backbone": "vit_micro_patch4_32", "method": "none", "image_size": 32}}
        )
        path = stored(tmp_path / "w.safetensors", spec=source)
        spec = job(recipe__distill__teacher="vit_micro_patch4_32")
        spec = spec.replace("recipe.distill.checkpoint", str(path))
    teacher = create_teacher(spec, CLASSES)
    expected = network(source, seed=5).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in teacher.state_dict().items())


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    spec = job(recipe__distill__teacher=str(run(tmp_path / "run")))
    with pytest.raises(ValueError, match=r"misshapes .*head\.weight"):
        create_teacher(spec, 7)


@pytest.mark.parametrize("file", ["model.safetensors", "job.yaml", "manifest_rank0.json"])
def test_a_damaged_checkpoint_is_neither_a_start_nor_a_teacher(tmp_path: Path, file: str) -> None:
    folder = run(tmp_path / "run")
    content = bytearray((folder / file).read_bytes())
    content[-9] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(FieldError, match=rf"is damaged: {file}"):
        load_start(network(job()), job(model__checkpoint=str(folder)))
    with pytest.raises(FieldError, match=rf"is damaged: {file}"):
        create_teacher(job(recipe__distill__teacher=str(folder)), CLASSES)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which holds no job\.yaml"):
        create_teacher(job(recipe__distill__teacher=str(tmp_path)), CLASSES)


def test_a_network_can_be_its_own_teacher(tmp_path: Path) -> None:
    """As it starts, without the method: from a checkpoint, or from published weights."""
    base = JobSpec.from_dict(
        job().to_dict()
        | {"model": {"backbone": "vit_nano_patch4_32", "method": "none", "image_size": 32}}
    )
    path = stored(tmp_path / "w.safetensors", spec=base)
    spec = job(recipe__distill__teacher="itself", model__checkpoint=str(path))
    teacher = create_teacher(spec, CLASSES)
    expected = network(base, seed=5).state_dict()
    assert teacher.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in teacher.state_dict().items())
    with pytest.raises(FieldError, match="classifier is not for 7 classes"):
        create_teacher(spec, 7)
    with pytest.raises(FieldError, match="whose weights are random"):
        create_teacher(job(recipe__distill__teacher="itself"), CLASSES)
