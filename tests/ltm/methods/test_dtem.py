"""DTEM against the paper's formulas, written out for one image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm.interfaces import SiteKind
from ltm.methods.dtem import DecoupledEmbedding, assign_softly, merge_softly

from .conftest import SIX, on_circle
from .written_out import CLASSY, Formula, State, cosine, create, network

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.merge import Merge

PLAN = [32, 27, 23, 19]
TAU = 0.1


def like_tokens(*, class_token: bool = True) -> Any:
    """A bias makes embeddings so alike that the rounds of training spread over many pairs, and no
    two masses are the same but for rounding."""
    pool = "token" if class_token else "avg"
    timms = {"depth": 4, "class_token": class_token, "global_pool": pool}
    model, _ = create(CLASSY, "dtem", compression_ratio=0.7, **timms)
    assert list(model.plan.values()) == PLAN
    for embedding in model.method.embed:
        torch.nn.init.normal_(embedding.weight, std=0.02)
        torch.nn.init.normal_(embedding.bias, std=1.0)
    return model


def random_images(count: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 96, 96, dtype=torch.float64)


def relaxed(similar: Tensor, leave: int) -> Tensor:
    """The paper's soft grouping, pair by pair: of similarities [A, B], what part of a joins b."""
    A, B = similar.shape
    pairs = {
        a: sorted(range(B), key=lambda b: -float(similar.detach()[a, b]))[:3] for a in range(A)
    }
    logit = {(a, b): similar[a, b] / TAU for a in range(A) for b in pairs[a]}
    goes = {pair: torch.zeros(()).double() for pair in logit}
    for _ in range(leave):
        power = {pair: (value / TAU).exp() for pair, value in logit.items()}
        total = sum(power.values())
        for a in range(A):
            once = sum(power[a, b] for b in pairs[a]) / total
            for b in pairs[a]:
                goes[a, b] = goes[a, b] + power[a, b] / total
                logit[a, b] = logit[a, b] + (1 - once).clamp_min(2.0**-23).log()
    part = torch.zeros(A, B).double()
    for a in range(A):
        most = max(float(sum(goes[a, b] for b in pairs[a]).detach()), 1.0)
        for b in pairs[a]:
            part = part.index_put((torch.tensor(a), torch.tensor(b)), goes[a, b] / most)
    return part


def training(model: Any) -> Formula:
    """Training of the paper for one image with a class token."""

    def merge(s: State) -> None:
        taking_part = [36, *PLAN][s.block]
        metric = model.method.embed[s.block](s.normed.detach())
        metric = metric / metric.norm(dim=1, keepdim=True)
        A = list(range(1, 1 + taking_part, 2))
        B = list(range(2, 1 + taking_part, 2))
        part = relaxed(metric[A] @ metric[B].T, taking_part - s.kept)
        size, new_x, new_size = s.sizes, list(s.x), list(s.sizes)
        for j, b in enumerate(B):
            moved = [size[a] * part[i, j] for i, a in enumerate(A)]
            new_size[b] = size[b] + sum(moved)
            taken = sum(m * s.x[a] for m, a in zip(moved, A, strict=True))
            new_x[b] = (size[b] * s.x[b] + taken) / new_size[b]
        for i, a in enumerate(A):
            left = 1 - part[i].sum()
            new_size[a] = size[a] * (left + (left.clamp(0, 1) - left).detach())
        order = sorted([*A, *B], key=lambda t: -float(new_size[t].detach()))
        order = [0, *order, *range(1 + taking_part, 37)]
        s.x = torch.stack([new_x[t] for t in order])
        s.sizes = torch.stack([new_size[t] for t in order])

    return merge


class Merged:
    """Inference: ToMe on the embedding. Each block's weights and sizes."""

    def __init__(self, model: Any) -> None:
        self.embed = model.method.embed
        self.weights: list[Tensor] = []
        self.sizes: list[Tensor] = []

    def __call__(self, s: State) -> None:
        metric, T, prefix = self.embed[s.block](s.normed), len(s.x), s.prefix
        targets = range(1, T, 2)
        edges = []
        for a in range(0, T, 2):
            if a >= prefix:
                best = max(targets, key=lambda b: cosine(metric[a], metric[b]))
                edges.append((-cosine(metric[a], metric[best]), a, best))
        joined = {a: b for _, a, b in sorted(edges)[: T - prefix - s.kept]}
        slots = [[a] for a in range(prefix, T) if a % 2 == 0 and a not in joined]
        slots += [[b, *(a for a in joined if joined[a] == b)] for b in targets]
        G = torch.zeros(T, len(slots)).double()
        for slot, members in enumerate(slots):
            for i in members:
                G[i, slot] = s.sizes[i] / sum(s.sizes[j] for j in members)
        s.replace([[i - prefix for i in members] for members in slots])
        self.weights.append(G[prefix:])
        self.sizes.append(s.sizes[prefix:])


@pytest.mark.parametrize("class_token", [True, False])
def test_inference_is_tomes_on_the_embedding(class_token: bool) -> None:
    model, x = like_tokens(class_token=class_token).eval(), random_images(2)
    model.pool_by_size = False  # which would weigh the tokens
    merges: list[Merge] = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    with torch.no_grad():
        tokens = model.forward_features(x)
        for i, image in enumerate(x):
            formula = Merged(model)
            expected = network(model, image, formula).tokens
            torch.testing.assert_close(tokens[i], expected, atol=1e-9, rtol=0)
            mass = None
            for merge, G, size in zip(merges, formula.weights, formula.sizes, strict=True):
                ours = merge.weights()
                assert ours is not None
                torch.testing.assert_close(ours[i], G, atol=1e-9, rtol=0)
                mass = merge.sizes(mass)
                torch.testing.assert_close(mass[i], size)


def test_training_is_the_papers_with_its_gradients() -> None:
    model, x = like_tokens().train(), random_images(2)
    learned = list(model.method.parameters())
    logits = model(x)
    ours = torch.autograd.grad(logits.square().sum(), learned, allow_unused=True)
    expected = torch.stack([network(model, image, training(model)).logits for image in x])
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
    theirs = torch.autograd.grad(expected.square().sum(), learned, allow_unused=True)
    for one, other in zip(ours[:-2], theirs[:-2], strict=True):
        assert other.abs().max() > 1e-9
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


def test_a_token_of_which_all_goes_has_no_part_in_the_next_round() -> None:
    """Pairs so unlike that every round takes one: those that ToMe takes."""
    similar = torch.tensor([[[0.9, 0.1], [0.2, 0.5], [0.3, 0.0]]]).double()
    goes = assign_softly(similar, 2, TAU, 3)
    expected = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]]).double()
    torch.testing.assert_close(goes, expected, atol=1e-6, rtol=0)


def test_a_token_joins_no_more_partners_than_allowed() -> None:
    similar = torch.zeros(1, 1, 5).double()
    assert (assign_softly(similar, 1, TAU, 3) > 0).sum() == 3
    torch.testing.assert_close(assign_softly(similar, 1, TAU, 9), torch.full_like(similar, 0.2))


def test_two_sources_share_a_round_by_their_similarity() -> None:
    """Two A tokens, 10 and 20 degrees from the only B token, of which one should leave."""
    near, far = (math.cos(math.radians(angle)) for angle in (10, 20))
    mass = torch.tensor([[2.0, 1.0, 3.0]])
    merge = merge_softly(on_circle(10, 0, 20), mass, 3, 1, tau=TAU, partners=3)
    goes = 1 / (1 + math.exp((far - near) / TAU**2))
    stays = 1 - goes
    whole = 1 + 2 * goes + 3 * stays
    # the largest first: B, then the one that went less
    sizes = torch.tensor([[whole, 3 * goes, 2 * stays]])
    torch.testing.assert_close(merge.sizes(), sizes, atol=1e-5, rtol=0)
    x = torch.tensor([[[1.0], [10.0], [100.0]]])
    taken = (10 + 2 * goes * 1 + 3 * stays * 100) / whole
    torch.testing.assert_close(merge(x).flatten(), torch.tensor([taken, 100.0, 1.0]))


def test_tokens_beyond_those_of_the_plan_take_no_part() -> None:
    merge = merge_softly(SIX, torch.ones(1, 6), 4, 1, tau=TAU, partners=3)
    x = torch.arange(6.0).view(1, 6, 1)
    assert merge(x).flatten()[4:].tolist() == [4, 5]
    assert merge.sizes()[0, 4:].tolist() == [1, 1]


def test_the_embedding_is_as_wide_as_a_head_or_two() -> None:
    def width(channels: int, head: int | None, **options: Any) -> int:
        method = DecoupledEmbedding({"blocks.0": SiteKind(channels, False, head)}, **options)
        return int(method.embed[0].out_features)  # type: ignore[union-attr]

    assert (width(384, 64), width(1024, 64), width(1280, 80), width(96, None)) == (64, 128, 160, 64)
    assert width(384, 64, dim=16) == 16
    model: Any = ltm.create_model("vit_nano_patch4_32", "dtem")
    assert model.method.embed[0].out_features == 64 // 2
