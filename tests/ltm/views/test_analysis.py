"""What became of tokens, against cases made by hand; likenesses, against loops and scikit-learn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

import ltm
from ltm.interfaces import Site
from ltm.merge import Selected, Weighted
from ltm.views.analysis import FATES, cka, depth, fates, groups, iou, nmi, picture, survival
from ltm.views.maps import SiteMerge

if TYPE_CHECKING:
    from ltm.interfaces import Grid, Kept

BLOCKS = [f"blocks.{i}" for i in range(4)]


def found(
    name: str, arrive: int, kept: Kept, over: list[list[float]], patches: Grid = (2, 2)
) -> SiteMerge:
    """Of one image. over: for each slot the weights of the tokens."""
    G = torch.tensor(over).T[None]
    return SiteMerge(Site(name, 8, None, arrive, kept), Weighted(G), patches, G)


def named(numbers: torch.Tensor) -> list[str]:
    return [FATES[number] for number in numbers[0].tolist()]


def test_a_token_survives_until_it_is_dropped() -> None:
    passed = [
        found("blocks.1", 4, 3, [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        found("blocks.3", 3, 1, [[0, 0, 0, 1]]),
    ]
    assert depth(passed, BLOCKS).tolist() == [[[3, 1], [3, 4]]]
    assert named(fates(passed)) == ["dropped", "dropped", "dropped", "kept"]
    assert groups(passed).tolist() == [[-1, -1, -1, 0]]


def test_tokens_of_a_slot_share_it_by_their_weights_and_padding_is_nobodys() -> None:
    """Pairs in equal parts, and a sum whose weights add up to 2, one of them negative."""
    passed = [
        found("blocks.0", 4, 3, [[0.5, 0.5, 0, 0], [0, 0, 1.5, -0.5], [0, 0, 0, 0]]),
    ]
    (share,) = survival(passed)
    assert share.tolist() == [[0.5, 0.5, 0.75, 0.25]]
    assert depth(passed, BLOCKS).flatten().tolist() == [2, 2, 3, 1]
    assert named(fates(passed)) == ["merged", "merged", "kept", "merged"]
    assert groups(passed).tolist() == [[0, 0, 1, 1]]


def test_what_a_network_downsamples_itself_is_kept() -> None:
    """Half of 4 x 2 tokens stays, and the network makes 2 of those 4 before it drops one."""
    half = [[float(i == j) for j in range(8)] for i in (0, 1, 2, 3)]
    one = [[0.5, 0.5, 0, 0, 0, 0, 0, 0]]
    passed = [
        found("layers.0", 8, (2, 2), half, (4, 2)),
        found("layers.1", 2, (1, 1), one, (4, 2)),
    ]
    first, second = survival(passed)
    assert first.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert second.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("method", ["topk", "tome", "ltm", "evit", "ats", "patchmerger"])
def test_the_depths_of_a_network_add_up_to_its_slots(method: str) -> None:
    torch.manual_seed(0)
    plan = {"blocks.1": 40, "blocks.2": 12}
    model: Any = ltm.create_model("vit_nano_patch4_32", method, plan=plan, num_classes=5)
    maps = ltm.merges(model, torch.randn(3, 3, 32, 32))
    slots = [at.merge.sizes().gt(0).sum(1).float() for at in maps]
    assert [slots[0].max(), slots[1].max()] <= [40, 12]
    for share, count in zip(survival(maps), slots, strict=True):
        torch.testing.assert_close(share.sum(1), count)
    first, second = slots
    expected = 64 + first + second * (len(model.site_names()) - 2)
    found = depth(maps, model.site_names())
    assert found.shape == (3, 8, 8)
    torch.testing.assert_close(found.sum((1, 2)), expected)
    fate = fates(maps)
    if method in ("topk", "evit"):  # what they say of a slot of their own
        alone = second if method == "topk" else second - 1
        assert (fate == FATES.index("kept")).sum(1).tolist() == alone.tolist()
    dropping = method in ("topk", "ats")
    assert bool((fate == FATES.index("dropped")).any()) == dropping
    assert torch.equal(groups(maps) < 0, fate == FATES.index("dropped"))


def test_a_merge_without_weights_is_refused() -> None:
    passed = [
        SiteMerge(Site("blocks.1", 8, None, 4, 2), Selected(torch.zeros(1, 2), 4), (2, 2), None)
    ]
    with pytest.raises(ltm.FieldError, match="so that no weights say"):
        survival(passed)


def test_intersection_over_union() -> None:
    a = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert iou(a, b)[:2].tolist() == pytest.approx([1 / 3, 1])
    assert iou(a, b)[2].isnan()


@pytest.mark.parametrize(("one", "other"), [(2, 2), (5, 3), (60, 12), (1, 4), (1, 1)])
def test_mutual_information_is_scikit_learns(one: int, other: int) -> None:
    torch.manual_seed(one)
    a, b = torch.randint(-1, one - 1, (6, 60)), torch.randint(-1, other - 1, (6, 60))
    a, b = a.clamp(max=one - 2), b.clamp(max=other - 2)
    b[0] = a[0]
    expected = [normalized_mutual_info_score(x, y) for x, y in zip(a, b, strict=True)]
    assert nmi(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    assert nmi(a, a.max() - a).tolist() == pytest.approx([1] * 6)


def hsic(K: list[list[float]], L: list[list[float]]) -> float:
    """Song et al., Feature selection via dependence maximization, equation 5, by loops."""
    n = len(K)
    every = range(n)
    K, L = ([[A[i][j] * (i != j) for j in every] for i in every] for A in (K, L))
    trace = sum(K[i][j] * L[j][i] for i in every for j in every)
    sums = sum(map(sum, K)) * sum(map(sum, L)) / ((n - 1) * (n - 2))
    both = sum(sum(K[i]) * sum(L[i]) for i in every) * 2 / (n - 2)
    return (trace + sums - both) / (n * (n - 3))


def test_cka_is_what_the_papers_compute() -> None:
    torch.manual_seed(0)
    X = torch.randn(9, 5).double() + 3
    Y = X[:, :3] ** 2 + torch.randn(9, 3)
    K, L = ([[float(a @ b) for b in x] for a in x] for x in (X, Y))
    assert cka(X, Y) == pytest.approx(hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L)))
    x, y = X - X.mean(0), Y - Y.mean(0)
    norms = [(a.T @ b).norm() for a, b in ((y, x), (x, x), (y, y))]
    assert cka(X, Y, debiased=False) == pytest.approx(float(norms[0] ** 2 / norms[1] / norms[2]))


def test_cka_knows_no_rotation_scale_and_shift_and_is_unbiased() -> None:
    torch.manual_seed(0)
    X = torch.randn(30, 6).double()
    turned = 3 * X @ torch.linalg.qr(torch.randn(6, 6).double()).Q + 5
    for debiased in (True, False):
        assert cka(X, turned, debiased=debiased) == pytest.approx(1)
    alien = [cka(torch.randn(16, 100), torch.randn(16, 100)) for _ in range(100)]
    assert abs(sum(alien) / 100) < 0.02
    assert cka(torch.randn(16, 100), torch.randn(16, 100), debiased=False) > 0.7
    assert math.isnan(cka(X[:3], X[:3]))
    assert math.isnan(cka(X, torch.ones(30, 2)))


def test_a_picture_shows_tokens_as_they_are_left() -> None:
    image = torch.zeros(3, 4, 4)
    image[0, :2] = torch.tensor([0.2, 0.4, 0.6, 0.8])
    image[1, 2:] = 1
    drawn = picture(image, torch.tensor([1, 1, 0, 2]), torch.tensor([0, 0, 1, -1]), (2, 2))
    assert drawn.dtype == torch.uint8
    assert (drawn[0, :2] == 128).all()  # the mean of both
    assert (drawn[1, 2:, :2] == 255).all()
    assert (drawn[1, 2:, 2:] == round(0.15 * 255)).all()
