"""ToMe: sizes, schedules, and no parameters."""

from typing import Any

import pytest
import torch

import ltm
from ltm.methods.matching import merge_pairs, reduce_tokens
from ltm.plan import removals

from .conftest import SIX
from .written_out import CLASSY, POOLED, Formula, State, assert_agrees, cosine, create

TINY = "vit_nano_patch4_32"


def test_means_are_weighted_by_size_through_all_blocks() -> None:
    """With every token the same, sizes alone tell: they add up to all tokens in the end."""
    model = ltm.create_model("vit_nano_patch4_32", "tome", compression_ratio=0.6)
    assert len(model.plan) == 4  # type: ignore[arg-type]
    mean = sum(model.plan.values()) / 4 / 64  # type: ignore[union-attr]
    assert mean == pytest.approx(0.6, abs=0.01)
    merges = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))  # type: ignore[union-attr]
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    mass = None
    for merge in merges:
        mass = merge.sizes(mass)
    assert mass is not None
    torch.testing.assert_close(mass.sum(1), torch.full((2,), 64.0))


def test_tome_has_no_parameters() -> None:
    base = ltm.create_model("vit_nano_patch4_32", "none")
    model = ltm.create_model("vit_nano_patch4_32", "tome")
    assert model.state_dict().keys() == base.state_dict().keys()


def test_tome_weighs_by_size_through_two_matchings() -> None:
    mass = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0, 1.0]])
    x = torch.arange(6.0).view(1, 6, 1)
    merge = merge_pairs(SIX, mass, 4)  # {1, 4}, {2}, {0, 3}, {5}
    expected = [(2 * 1 + 4) / 3, 2, (0 + 3 * 3) / 4, 5]
    torch.testing.assert_close(merge(x).flatten(), torch.tensor(expected))
    assert merge.sizes(mass).tolist() == [[3, 1, 4, 1]]
    one = reduce_tokens(SIX, mass, 1, merge_pairs)
    torch.testing.assert_close(one(x).flatten(), (mass * x[..., 0]).sum(1) / mass.sum())


def test_tome_schedules() -> None:
    assert removals(8, "constant", 4).each == (8, 8, 8, 8)
    assert removals(8, "decreasing", 5).each == (16, 12, 8, 4, 0)
    assert removals(8, "constant", 4, skips=1).each == (0, 8, 8, 8)
    assert removals(8, "decreasing", 4, skips=1).each == (0, 16, 8, 0)
    assert ltm.create_model(TINY, "tome", r=8).plan == {
        f"blocks.{i}": kept for i, kept in enumerate((56, 48, 40, 32))
    }
    model = ltm.create_model(TINY, "tome", r=[40, 0, 8, 1])
    assert model.plan == {"blocks.0": 32, "blocks.2": 24, "blocks.3": 23}  # half at most
    even, decreasing = (
        ltm.create_model(TINY, "tome", compression_ratio=0.6, schedule=schedule).plan
        for schedule in ("constant", "decreasing")
    )
    full = dict.fromkeys(even, 64)
    for plan in (even, decreasing):
        kept = list(({**full, **plan}).values())
        assert sum(kept[:3]) + min(plan.values()) == pytest.approx(4 * 64 * 0.6, abs=2)
    assert decreasing["blocks.0"] < even["blocks.0"]


def matching(r: int, order: str) -> Formula:
    """ToMe's step on tokens as they lie, or with the image's tokens alone and in their order."""

    def merge(s: State) -> None:
        places = range(s.prefix if order == "authors" else 0, len(s.x))
        keys = s.keys[s.prefix :]
        A, B = ([n for n in range(len(keys)) if places[n] % 2 == parity] for parity in (0, 1))
        edges = []
        for a in A:
            b = max(B, key=lambda b: cosine(keys[a], keys[b]))
            edges.append((cosine(keys[a], keys[b]), a, b))
        edges.sort(reverse=True)
        stay = [a for _, a, _ in edges[r:]]
        joined = {b: [b, *(a for _, a, into in edges[:r] if into == b)] for b in B}
        if order == "image":
            slots = sorted([*stay, *B])
        else:
            slots = [*(sorted(stay) if s.prefix else stay), *B]
        s.replace([joined.get(n, [n]) for n in slots])

    return merge


@pytest.mark.parametrize("order", ["image", "authors"])
@pytest.mark.parametrize(("backbone", "r"), [(CLASSY, 2), (POOLED, 9)])
def test_tome_as_published(backbone: str, r: int, order: str) -> None:
    model, images = create(backbone, "tome", images=3, r=r, order=order)
    assert_agrees(model, images, matching(r, order))


def test_the_order_of_the_authors_is_another_one() -> None:
    torch.manual_seed(0)
    models: list[Any] = [
        ltm.create_model("vit_tiny_patch16_224", "tome", image_size=64, r=2, order=order).eval()
        for order in ("image", "authors")
    ]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(models[0](x), models[1](x), atol=1e-4)


def test_the_order_of_the_authors_keeps_no_grid() -> None:
    for backbone, options in (
        ("swin_nano_patch2_window4_32", {}),
        (TINY, {"plan": {"blocks.0": (7, 7)}}),
    ):
        with pytest.raises(ltm.FieldError, match="no grid stays"):
            ltm.create_model(backbone, "tome", order="authors", **options)
    model: Any = ltm.create_model(TINY, "tome", order="authors", compression_ratio=0.5)
    before = model.plan
    with pytest.raises(ltm.FieldError, match="no grid stays"):
        model.set_compression({"blocks.0": (7, 7)})
    assert model.plan == before
    with pytest.raises(ltm.FieldError, match="image, authors"):
        ltm.create_model(TINY, "tome", order="alphabet")
