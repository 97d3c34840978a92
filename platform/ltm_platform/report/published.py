"""The published results, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Figures:
    """The paper's figures of a method on a network: 1e6 parameters, 1e9 MACs, percent."""

    gmacs: float
    top1: float
    params_m: float | None = None


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """A network of the published table, with its results by our names of the methods."""

    title: str
    backbone: str
    """timm's name."""
    image_size: int
    attention_matmuls: bool
    """Whether the paper's GMACs hold the two products of attention."""
    results: dict[str, Figures]
    """``none`` is the network without merging."""


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """The whole table."""

    source: str
    regime: str
    data: str
    classes: int
    training_images: int
    validation_images: int
    networks: tuple[PublishedNetwork, ...]


@cache
def published() -> PublishedFigures:
    """The table of ``published.yaml``, which lies beside this module."""
    values = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    networks = tuple(
        PublishedNetwork(
            **{
                **network,
                "results": {key: Figures(**row) for key, row in network["results"].items()},
            }
        )
        for network in values.pop("networks")
    )
    return PublishedFigures(**values, networks=networks)
