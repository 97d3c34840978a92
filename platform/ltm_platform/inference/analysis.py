"""What trained networks do with the tokens of the same images, and how alike they are in that."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch

import ltm
from ltm.checkpoints import classifiers
from ltm.views import analysis as measures
from ltm_platform.data.decode import decode_rgb, pixel_rule
from ltm_platform.errors import UserError
from ltm_platform.inference.predict import BATCH, to_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from ltm_platform.compat.image_loader.pixels import PixelRule
    from ltm_platform.data import ImageSet
    from ltm_platform.inference.trained_network import StoredNetwork

FEWEST = measures.FEWEST
"""Images that an analysis needs."""
PICTURED = 6
"""Images whose tokens are drawn."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What became of the tokens of images in one network.

    depth: [B, rows, columns], see `ltm.views.analysis.depth`. fates, groups: [B, rows x columns].
    """

    depth: Tensor
    fates: Tensor
    groups: Tensor


@dataclass(frozen=True, slots=True)
class Network:
    """One of the networks that were analysed."""

    name: str
    method: str
    places: int
    """Where the network can merge, such as its blocks: a token that is never merged survives so
    many."""
    tokens: Tokens | None
    """None for a network that reduces no tokens."""
    features: Tensor
    """[B, D], what the classifier is given."""
    pictures: tuple[Tensor, ...]
    """The first images as the tokens that are left, uint8 [3, H, W]."""

    def shares(self) -> dict[str, float] | None:
        """The share of tokens of each fate; None for a network that reduces no tokens."""
        if self.tokens is None:
            return None
        fates = self.tokens.fates
        return {name: float((fates == i).float().mean()) for i, name in enumerate(measures.FATES)}

    def mean_depth(self) -> float | None:
        """Places that a token survives, on average; None for a network that reduces none."""
        return None if self.tokens is None else float(self.tokens.depth.mean())


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two networks are, as a mean over images; None where it says nothing."""

    run: str
    other: str
    iou: float | None
    """Intersection over union of the tokens that are kept."""
    nmi: float | None
    """Normalised mutual information of the groups that tokens are merged in, where all that are
    dropped are one."""
    cka: float | None
    """Linear CKA of the features, debiased."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Networks on the same images, in the order in which they were named."""

    networks: tuple[Network, ...]
    images: tuple[int, ...]
    """The number of each image in the validation set."""
    likenesses: tuple[Likeness, ...]
    """One a pair."""


def analyse(networks: Mapping[str, StoredNetwork], source: ImageSet, count: int) -> Analysis:
    """Show the first ``count`` images of ``source`` to all networks.

    Those that cannot be decoded are left out.

    Raises:
        UserError: no image can be decoded, or a network merges so that nobody can say what.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = {name: _Collected(network, device) for name, network in networks.items()}
    seen: list[int] = []
    for indices, files in _chunks(source, count):
        by_rule = {rule: _decoded(files, rule) for rule in {part.rule for part in parts.values()}}
        whole = [i for i, row in enumerate(zip(*by_rule.values(), strict=True)) if None not in row]
        for part in parts.values():
            part.add([by_rule[part.rule][i] for i in whole])
        seen += [indices[i] for i in whole]
    if not seen:
        raise UserError("none of the validation images can be decoded: there is nothing to analyse")
    found = tuple(part.network(name) for name, part in parts.items())
    pairs = tuple(_likeness(a, b) for a, b in combinations(found, 2))
    return Analysis(found, tuple(seen), pairs)


def _chunks(source: ImageSet, count: int) -> Iterator[tuple[list[int], list[bytes]]]:
    count = min(count, len(source))
    for start in range(0, count, BATCH):
        indices = [*range(start, min(start + BATCH, count))]
        yield indices, [data for data, _ in source.read(indices)]


def _decoded(files: Sequence[bytes], rule: PixelRule) -> list[Any]:
    """Images, None for each that cannot be decoded."""
    images: list[Any] = []
    for data in files:
        try:
            images.append(decode_rgb(data, rule))
        except Exception:  # Pillow raises whatever a damaged file makes it trip over
            images.append(None)
    return images


@dataclass(slots=True)
class _Collected:
    """What one network has done so far."""

    stored: StoredNetwork
    device: torch.device
    depth: list[Tensor] = field(default_factory=list)
    fates: list[Tensor] = field(default_factory=list)
    groups: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)

    @property
    def rule(self) -> PixelRule:
        """By which it sees pixels."""
        return pixel_rule(self.stored.job.data)

    @torch.inference_mode()
    def add(self, pictures: Sequence[Image]) -> None:
        if not pictures:
            return
        images = to_input(pictures, self.stored.pixels)
        model = self.stored.model.to(self.device)
        classifier = next(iter(classifiers(model).values()))
        at_classifier = classifier.register_forward_pre_hook(
            lambda _, given: self.features.append(given[0].float().flatten(1).cpu())
        )
        try:
            if getattr(model, "sites", {}):
                maps = ltm.merges(model, images.to(self.device))
                self.depth.append(measures.depth(maps, model.site_names()).cpu())
                self.fates.append(measures.fates(maps).cpu())
                self.groups.append(measures.groups(maps).cpu())
            else:
                model(images.to(self.device))
        except ltm.FieldError as error:
            raise UserError(f"{self.stored.job.model.method}: {error}") from None
        finally:
            at_classifier.remove()
        self._draw(images)

    def _draw(self, images: Tensor) -> None:
        """The first ones, as the network saw them, or as the tokens that are left."""
        pixels = self.stored.pixels
        mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
        for i, image in enumerate(images[: PICTURED - len(self.pictures)]):
            plain = (image * std + mean).clamp(0, 1)
            if self.depth:
                (_, rows, columns), fate = self.depth[-1].shape, self.fates[-1][i]
                drawn = measures.picture(plain, fate, self.groups[-1][i], (rows, columns))
            else:
                drawn = (plain * 255).round().to(torch.uint8)
            self.pictures.append(drawn)

    def network(self, name: str) -> Network:
        tokens = None
        if self.depth:
            tokens = Tokens(*map(torch.cat, (self.depth, self.fates, self.groups)))
        model = self.stored.model
        places = len(model.site_names()) if hasattr(model, "site_names") else 0
        features, pictures = torch.cat(self.features), tuple(self.pictures)
        return Network(name, self.stored.job.model.method, places, tokens, features, pictures)


def _likeness(a: Network, b: Network) -> Likeness:
    overlap = shared = None
    if a.tokens and b.tokens and a.tokens.depth.shape == b.tokens.depth.shape:
        kept = measures.FATES.index("kept")
        overlap = _mean(measures.iou(a.tokens.fates == kept, b.tokens.fates == kept))
        shared = _mean(measures.nmi(a.tokens.groups, b.tokens.groups))
    alike = _mean(torch.tensor(measures.cka(a.features, b.features)))
    return Likeness(a.name, b.name, overlap, shared, alike)


def _mean(values: Tensor) -> float | None:
    """Of those that are numbers."""
    mean = float(values.nanmean())
    return None if mean != mean else mean
