"""JobSpec: one experiment, complete and checked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from ltm_platform.errors import UserError, nearest
from ltm_platform.interrupts import interrupts_held
from ltm_platform.job.batch import BatchPlan, plan_batch, plan_batches
from ltm_platform.job.explain import Explainer, Fields, show
from ltm_platform.job.fields import RunName, Section, conflict
from ltm_platform.job.layer import Layer, Origins
from ltm_platform.job.load import read_job, read_override
from ltm_platform.job.overlay import laid_over
from ltm_platform.job.recipe import Recipe
from ltm_platform.job.sections import Checkpoint, Cluster, Data, Engine, Model, Tracking
from ltm_platform.job.stored import BEFORE
from ltm_platform.job.yaml_text import dump_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Scalar = str | int | float | bool | None
_BATCH_KEYS = ("recipe.global_batch", "cluster.workers")


class JobSpec(Section):
    """A job file's values, with every default filled in.

    The value alone counts for equality, `to_dict` and `to_yaml`; where each part of it was given is
    known to `where` and to the errors made here.
    """

    name: RunName = "job"
    """Name of the experiment, the beginning of its runs' names; by default the job file's own."""
    model: Model
    """The network and how its tokens are reduced."""
    data: Data
    """Where the images come from and how they are read."""
    recipe: Recipe = Field(default_factory=Recipe)
    """How the weights are learned."""
    engine: Engine = Field(default_factory=Engine)
    """DeepSpeed's settings."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """What is stored of a run."""
    cluster: Cluster = Field(default_factory=Cluster)
    """What the run requests from the Ray cluster."""
    tracking: Tracking = Field(default_factory=Tracking)
    """Where MLflow keeps the run."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

    @classmethod
    def load(cls, name: str | Path, overrides: Iterable[str] = ()) -> JobSpec:
        """Read a job file, or a bundled job by its name, and apply ``section.key=value`` overrides.

        Raises:
            UserError: with one sentence a line for everything that is wrong.
        """
        layer, origins = read_job(name, overrides, cls.model_fields)
        return cls._build(layer.values, origins, layer.problems)

    @classmethod
    def load_stored(cls, path: Path, overrides: Iterable[str] = ()) -> JobSpec:
        """The job that a run has stored, complete for the version that wrote it.

        Fields that came later have the values that do what that version did.

        Raises:
            UserError: as of `load`.
        """
        layer, origins = read_job(path, overrides, cls.model_fields, BEFORE)
        return cls._build(layer.values, origins, layer.problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "job") -> JobSpec:
        """The job that `to_dict` gave; ``source`` names it in errors, e.g. a checkpoint's path."""
        return cls._build(values, Origins(source), [])

    @classmethod
    def _build(cls, values: Mapping[str, Any], origins: Origins, problems: list[str]) -> JobSpec:
        with interrupts_held():  # pydantic would make an error of the schema of them
            cls.model_rebuild()
        job, wrong = None, dict[Fields, str]()
        try:
            job = cls.model_validate(values)
        except ValidationError as error:
            explainer = Explainer(cls.model_json_schema(), values, origins)
            wrong = explainer.sentences(error.errors(include_url=False))
        if job is None or problems:
            given = Layer(dict(values))
            fields = {key: given.get(key) for keys in wrong for key in keys}
            raise UserError("\n".join([*problems, *wrong.values()]), fields)
        job._origins = origins
        return job

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobSpec) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # the method's options are a dict

    @model_validator(mode="after")
    def _batch_divides(self) -> JobSpec:
        try:
            plan_batches(self.recipe.global_batch, self.micro_limit, self.cluster.worker_range)
        except ValueError as error:
            raise conflict(str(error), *_BATCH_KEYS) from None
        return self

    @property
    def micro_limit(self) -> int | None:
        """The most images of a micro-batch; None, the whole share of a worker, for ``auto``."""
        micro = self.recipe.micro_batch
        return None if micro == "auto" else micro

    def batch(self, workers: int) -> BatchPlan:
        """Micro-batch and accumulation for this many workers; UserError when they do not divide.

        With ``recipe.micro_batch: auto`` it is the whole share, of which workers find a part.
        """
        try:
            return plan_batch(
                self.recipe.global_batch,
                self.micro_limit,
                workers,
                even=self.recipe.mix.enabled,
            )
        except ValueError as error:
            fields = {key: self._get(key) for key in _BATCH_KEYS}
            raise UserError(self._origins.prefix(*_BATCH_KEYS) + str(error), fields) from None

    def overridden(self, overrides: Iterable[str]) -> JobSpec:
        """The job with ``section.key=value`` overrides, as of `load`.

        Raises:
            UserError: with one sentence a line for everything that is wrong.
        """
        known = self._origins
        layer = Layer(self.to_dict(), dict(known.of_key), dict(known.backbones))
        layer.shortened.update(known.shortened)
        for override in overrides:
            layer = laid_over(layer, read_override(override, layer))
        return self._build(layer.values, layer.origins_from(known.source), layer.problems)

    def replace(self, key: str, value: Any) -> JobSpec:
        """The job with one field changed and checked again; `where` is as before."""
        self._get(key)
        values = self.to_dict()
        *sections, field = key.split(".")
        node = values
        for section in sections:
            node = node[section]
        node[field] = value
        typed = {**self._origins.backbones, key: None}
        return self._build(values, replace(self._origins, backbones=typed), [])

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON and YAML can hold; `from_dict` gives the same job back."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved job as a job file: complete, and without ``extends``."""
        return dump_yaml(self.to_dict())

    def flat(self) -> dict[str, Scalar]:
        """Dotted keys and scalars, in the form of MLflow's parameters; lists become JSON text."""
        return dict(_flatten(self.to_dict()))

    def where(self, key: str) -> str:
        """Where a field was given: ``jobs/x.yaml:4``, ``--set recipe.epochs=10`` or ``default``."""
        self._get(key)
        return self._origins.where(key)

    def shortened(self, key: str) -> float | None:
        """What was given of a field that was cut to fit another; None: nothing was cut."""
        return self._origins.shortened.get(key)

    def backbone_of(self, key: str) -> str | None:
        """The backbone that the file which gave a field is for; None where no file gave it."""
        return self._origins.backbones.get(key)

    def given(self, section: str) -> list[str]:
        """The fields of a section that files or overrides gave, dotted."""
        return [
            key
            for key in self.flat()
            if key.startswith(f"{section}.") and key in self._origins.of_key
        ]

    def error(self, key: str, sentence: str) -> UserError:
        """An error to raise about a field: ``sentence`` after the place where it was given."""
        return UserError(self._origins.prefix(key) + sentence, {key: self._get(key)})

    def choice_error(self, key: str, allowed: Iterable[str], which: str = "") -> UserError:
        """The error that a field's value is none of the ``allowed`` names, with the nearest one.

        ``which``: what is wrong with a value that somebody may know, beginning with a comma.
        """
        names, value = list(allowed), self._get(key)
        known = f"but must be one of: {', '.join(names)}{nearest(str(value), names)}"
        return self.error(key, f"{key} is {show(value)}{which}, {known}")

    def _get(self, key: str) -> Any:
        node: Any = self.to_dict()
        for part in key.split("."):
            node = node[part]
        return node


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Scalar]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value) if isinstance(value, list) else value
