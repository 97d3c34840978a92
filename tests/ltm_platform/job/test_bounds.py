"""Every number of a job has bounds, and says them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = JobSpec.model_json_schema()


def numbers(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number in the schema of a job, with the field that it is of."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") in ("integer", "number"):
        yield path, schema
    inner = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    maybe = (schema.get("items"), schema.get("additionalProperties"))
    inner += [more for more in maybe if isinstance(more, dict)]
    for one in inner:
        yield from numbers(one, path)
    for name, one in schema.get("properties", {}).items():
        yield from numbers(one, f"{path}.{name}".lstrip("."))


NUMBERS = list(numbers(SCHEMA))


def test_the_numbers_of_a_job_are_found() -> None:
    found = {path for path, _ in NUMBERS}
    assert {"recipe.lr", "recipe.ib.beta", "cluster.workers", "model.plan"} <= found
    assert {"recipe.augment.crop_scale", "model.image_size", "recipe.early_stop"} <= found
    assert len(found) > 40


@pytest.mark.parametrize(("path", "schema"), NUMBERS, ids=lambda value: str(value)[:30])
def test_every_number_has_both_bounds(path: str, schema: dict[str, Any]) -> None:
    assert {"minimum", "exclusiveMinimum"} & schema.keys(), path
    assert {"maximum", "exclusiveMaximum"} & schema.keys(), path


LISTS = {"model.plan", "cluster.workers", "recipe.augment.crop_scale"}


@pytest.mark.parametrize("path", sorted({path for path, _ in NUMBERS} - LISTS))
@pytest.mark.parametrize("value", ["1e30", f"1{'0' * 400}", "-1e30"])
def test_a_number_beyond_all_sense_is_told_its_bounds(path: str, value: str) -> None:
    if path == "model.elastic":
        value = f"[{value}, {value}]"
    with pytest.raises(UserError) as error:
        JobSpec.load("quickstart", [f"{path}={value}"])
    (line,) = str(error.value).splitlines()
    assert f"{path} is " in line
    assert " to " in line or "at most" in line or "less than" in line
    assert len(line) < 400


@pytest.mark.parametrize(
    "override",
    [
        "recipe.epochs=1000000",
        "recipe.ib.clusters=1000000",
        "recipe.ib.weight=1e308",
        "recipe.ib.beta=1e308",
        "recipe.weight_decay=1e308",
        "recipe.mix.mixup=1e308",
        "recipe.distill.temperature=1e308",
        "recipe.lr=1e-300",
        "cluster.cpus_per_worker=1e-300",
        "cluster.workers=[1, 1000000000]",
        "model.plan={blocks.0: 1000000000}",
    ],
)
def test_what_was_taken_before_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        JobSpec.load("quickstart", [override])


def test_a_range_of_workers_that_no_batch_divides_by_is_not_answered_with_a_batch() -> None:
    with pytest.raises(UserError) as error:
        JobSpec.load("quickstart", ["cluster.workers=[1, 4096]"])
    assert "by every number of workers from 1 to 4096; use a fixed number" in str(error.value)
