"""timm: an image operation that a new Pillow refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image
from timm.data import auto_augment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def allow_posterize_to_black(step: Any) -> None:
    """Let timm posterise to 0 bits, which is black, as its strongest levels ask for.

    Pillow did so before version 13 and raises ValueError since. timm's table of operations is
    private, and an operation takes its function out of it when it is made.
    """
    for operation in _operations(step):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize


def replace_operations(
    step: Any, table: Mapping[str, Any], otherwise: Callable[[Any], Any]
) -> None:
    """Exchange what the operations of a policy do by ``table``, which has timm's functions' names.

    otherwise: makes of timm's function what takes its place where the table has nothing.
    """
    for operation in _operations(step):
        done = operation.aug_fn
        operation.aug_fn = table.get(done.__name__) or otherwise(done)


def _operations(step: Any) -> Iterator[auto_augment.AugmentOp]:
    yield from getattr(step, "ops", [])  # RandAugment, AugMix
    for policy in getattr(step, "policy", []):  # AutoAugment
        yield from policy


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    if bits < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits)
