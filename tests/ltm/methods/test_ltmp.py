"""LTMP against the paper's formulas, written out for one image; decisions to a number of tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm.errors import FieldError
from ltm.methods._thresholds import Thresholds, Tokens, decide
from ltm.methods.ltmp import relative_macs

from ..test_export import assert_onnx_equals
from .conftest import SIX
from .written_out import CLASSY, State, cosine, create, network

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ltm.interfaces import SiteInput
    from ltm.merge import Merge

THETA_M, THETA_P, TAU = 0.33, 0.02, 0.1


def with_thresholds(*, class_token: bool = True, **options: Any) -> Any:
    pool = "token" if class_token else "avg"
    timms = {"depth": 4, "class_token": class_token, "global_pool": pool}
    model, _ = create(CLASSY, "ltmp", calm=True, compression_ratio=0.7, **timms, **options)
    for name, parameter in model.method.named_parameters():
        torch.nn.init.constant_(parameter, THETA_M if "merge" in name else THETA_P)
    return model


def random_images(count: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, 96, 96, dtype=torch.float64)


@dataclass
class Token:
    """made_of: weights of the tokens that entered the block."""

    x: Tensor
    size: Tensor
    importance: float
    made_of: dict[int, float]


class Gathered:
    """Inference of the paper for one image, and each block's weights and sizes."""

    def __init__(self, model: Any) -> None:
        self.blocks = model.method.blocks
        self.weights: list[Tensor] = []
        self.sizes: list[Tensor] = []

    def __call__(self, s: State) -> None:
        thetas, prefix, T = self.blocks[s.block], s.prefix, len(s.x)
        tokens = [
            Token(s.x[i], s.sizes[i], float(s.map[:, :, i].mean()), {i: 1.0}) for i in range(T)
        ]
        sources, targets = list(range(0, T, 2)), list(range(1, T, 2))
        unmerged, members = [], {b: [b] for b in targets}
        for a in sources:
            best = max(targets, key=lambda b: cosine(s.keys[a], s.keys[b]))
            if a >= prefix and cosine(s.keys[a], s.keys[best]) > float(thetas.merge.theta):
                members[best].append(a)
            else:
                unmerged.append(tokens[a])
        merged = []
        for group in members.values():
            size = torch.stack([tokens[i].size for i in group]).sum()
            shares = {i: float(tokens[i].size / size) for i in group}
            mean = torch.stack([tokens[i].x * share for i, share in shares.items()]).sum(0)
            merged.append(Token(mean, size, max(tokens[i].importance for i in group), shares))
        left = [
            token
            for token in unmerged + merged
            if min(token.made_of) >= prefix and token.importance > float(thetas.prune.theta)
        ]
        G = torch.zeros(T - prefix, len(left), dtype=torch.float64)
        for slot, token in enumerate(left):
            for i, share in token.made_of.items():
                G[i - prefix, slot] = share
        self.weights.append(G)
        self.sizes.append(torch.stack([token.size for token in left]))
        groups = [[i - prefix for i in token.made_of] for token in left]
        s.replace(groups, [token.x for token in left], self.sizes[-1])


class Hidden:
    """Training of the paper for one image, and the mean mask after each block."""

    def __init__(self, model: Any) -> None:
        self.blocks = model.method.blocks
        self.means: list[Tensor] = []

    def __call__(self, s: State) -> None:
        T, thetas = len(s.x), self.blocks[s.block]
        if s.block == 0:
            self.size = torch.ones(T, dtype=torch.float64)
            self.mask = [torch.ones(()).double() for _ in range(T)]
        size, mask = self.size, self.mask
        there = [float(m.detach()) > 0.5 for m in mask]
        received = s.map[:, there].mean((0, 1))
        sources, targets = range(0, T, 2), range(1, T, 2)
        total, new_size = s.x * size[:, None], size.clone()
        importance, merging = list(received), {}
        for a in sources[1:]:
            if not there[a]:
                continue
            likeness = {
                b: torch.cosine_similarity(s.keys[a], s.keys[b], 0) * there[b] for b in targets
            }
            best = max(likeness, key=lambda b: float(likeness[b].detach()))
            merging[a] = through(likeness[best], thetas.merge.theta)
            if merging[a].detach() > 0.5:
                total = total.index_add(0, torch.tensor([best]), (s.x[a] * size[a])[None])
                new_size[best] += size[a]
                importance[best] = torch.maximum(importance[best], received[a])
        mean = total / new_size[:, None]
        for i in range(1, T):
            if there[i]:
                joined = i in merging and merging[i].detach() > 0.5
                stays = through(importance[i], thetas.prune.theta)
                mask[i] = 1 - merging[i] if joined else stays
        order = [*sources, *targets]
        self.size, self.mask = new_size[order], [mask[i] for i in order]
        seen_as = torch.stack(self.mask)
        self.means.append(seen_as.mean())
        s.x, s.sizes = mean[order], self.size * seen_as


def through(value: Tensor, theta: Tensor) -> Tensor:
    """Hard forward, a sigmoid backward."""
    soft = ((value - theta.squeeze()) / TAU).sigmoid()
    return soft + ((value > theta.squeeze()).double() - soft).detach()


@pytest.mark.parametrize("class_token", [True, False])
def test_inference_is_the_papers(class_token: bool) -> None:
    model = with_thresholds(class_token=class_token).eval()
    model.pool_by_size = False  # which would weigh the tokens
    merges: list[Merge] = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    for image in random_images(3):
        merges.clear()
        with torch.no_grad():
            tokens = model.forward_features(image[None])[0]
            formula = Gathered(model)
            expected = network(model, image, formula).tokens
        sizes, mass = formula.sizes, None
        for merge, G, size in zip(merges, formula.weights, sizes, strict=True):
            ours = merge.weights()
            assert ours is not None
            torch.testing.assert_close(ours[0], G, atol=1e-9, rtol=0)
            mass = merge.sizes(mass)
            torch.testing.assert_close(mass[0], size)
        assert len(sizes[0]) < 36
        assert (sizes[-1] > 1).any()
        torch.testing.assert_close(tokens, expected, atol=1e-9, rtol=0)


def test_images_that_keep_different_numbers_share_a_batch() -> None:
    model, x = with_thresholds().eval(), random_images(4)
    with torch.no_grad():
        logits = model(x)
        alone = [Gathered(model) for _ in x]
        each = zip(x, alone, strict=True)
        expected = torch.stack([network(model, image, formula).logits for image, formula in each])
    assert len({len(formula.sizes[-1]) for formula in alone}) > 1
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)


def test_training_is_the_papers_with_its_gradients() -> None:
    model, x = with_thresholds().train(), random_images(2)
    thetas = list(model.method.parameters())
    logits = model(x)
    target = relative_macs(torch.tensor([33, 28, 24, 20]).double() / 37, 37, 192)
    penalty = model.method.loss_terms()["flops"]
    loss = logits.square().sum() + penalty
    ours = torch.autograd.grad(loss, thetas)

    alone = [Hidden(model) for _ in x]
    each = zip(x, alone, strict=True)
    expected = torch.stack([network(model, image, formula).logits for image, formula in each])
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
    means = torch.stack([torch.stack(formula.means) for formula in alone])
    spent = relative_macs(means.mean(0), 37, 192)
    assert spent < 0.9
    torch.testing.assert_close(penalty, 10 * (spent - target) ** 2, atol=1e-9, rtol=0)
    loss = expected.square().sum() + 10 * (spent - target) ** 2
    theirs = torch.autograd.grad(loss, thetas)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs() > 1e-6
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)


def test_r_flops_is_that_of_the_paper() -> None:
    """Of a block with T tokens that arrive and m T that are left: 2 T D^2 + T^2 D + 4 m T D^2."""
    D, T, kept = 64, 50, [0.9, 0.7, 0.6]
    arrive = [1.0, *kept[:-1]]
    spent = sum(
        2 * n * T * D**2 + (n * T) ** 2 * D + 4 * m * T * D**2
        for n, m in zip(arrive, kept, strict=True)
    )
    whole = 3 * (6 * T * D**2 + T**2 * D)
    assert float(relative_macs(torch.tensor(kept).double(), T, D)) == pytest.approx(spent / whole)


def thresholds(merge: float, prune: float) -> Thresholds:
    both = Thresholds(TAU)
    torch.nn.init.constant_(both.merge.theta, merge)
    torch.nn.init.constant_(both.prune.theta, prune)
    return both


RECEIVED = torch.tensor([[0.2, 0.2, 0.05, 0.2, 0.2, 0.04]])
X = torch.arange(6.0).view(1, 6, 1)


def to_number(slots: int, both: Thresholds) -> tuple[list[float], list[float]]:
    given = Tokens(SIX, RECEIVED, torch.ones(1, 6))
    with torch.no_grad():
        merge = decide(given, both, None, slots, slots)
    return merge(X).flatten().tolist(), merge.sizes().flatten().tolist()


def test_to_a_number_it_merges_first_and_then_prunes_the_least_important() -> None:
    """Tokens 0 and 3 are alike, then 4 and 1; nobody attends to 5 and 2."""
    both = thresholds(0.98, 0.1)
    assert to_number(5, both) == ([2, 4, 1, 1.5, 5], [1, 1, 1, 2, 1])
    assert to_number(4, both) == ([2, 2.5, 1.5, 5], [1, 2, 2, 1])
    assert to_number(3, both) == ([2, 2.5, 1.5], [1, 2, 2])
    assert to_number(2, both) == ([2.5, 1.5], [2, 2])


def test_to_a_number_the_next_most_similar_merge_when_nothing_is_below_the_thresholds() -> None:
    assert to_number(5, thresholds(1.0, 0.0)) == ([2, 4, 1, 1.5, 5], [1, 1, 1, 2, 1])


def test_the_destination_has_the_largest_importance_of_what_is_in_it() -> None:
    received = torch.tensor([[0.3, 0.3, 0.3, 0.01, 0.01, 0.3]])
    given = Tokens(SIX, received, torch.ones(1, 6))
    with torch.no_grad():
        merge = decide(given, thresholds(0.999, 0.1), None, None, 6)
    # 3 takes in 0 and stays; 4, below the threshold of merging, is pruned
    assert merge(X).flatten().tolist() == [2, 1, 1.5, 5]
    assert merge.present is None


def test_one_token_of_an_image_stays() -> None:
    model = with_thresholds(class_token=False).eval()
    for block in model.method.blocks:
        torch.nn.init.constant_(block.prune.theta, 1.0)
    with torch.no_grad():
        tokens = model.forward_features(random_images(2))
        assert model(random_images(2)).isfinite().all()
    assert tokens.shape[1] == 2  # of which one is padding


def test_thresholds_stay_in_their_range() -> None:
    model: Any = ltm.create_model("vit_nano_patch4_32", "ltmp")
    theta = model.method.blocks[0].prune.theta
    torch.nn.init.constant_(theta, -0.1)
    model.method.after_step(model, 1, 1)
    assert theta.item() == 0


def test_the_plan_says_how_many_stay_without_varies_and_on_a_grid() -> None:
    model: Any = ltm.create_model("vit_nano_patch4_32", "ltmp", compression_ratio=0.5, varies=False)
    with torch.no_grad():
        tokens = model.eval().forward_features(torch.randn(2, 3, 32, 32))
    assert tokens.shape[1] == list(model.plan.values())[-1]
    swin: Any = ltm.create_model("swin_nano_patch2_window4_32", "ltmp")
    assert not swin.method.varies
    with pytest.raises(FieldError, match="varies"):
        ltm.create_model("swin_nano_patch2_window4_32", "ltmp", varies=True)


def test_a_network_is_copied_between_forward_and_loss() -> None:
    model: Any = ltm.create_model("vit_nano_patch4_32", "ltmp", compression_ratio=0.5)
    model.train()(torch.randn(2, 3, 32, 32))
    assert copy.deepcopy(model).method.loss_terms() == {}
    assert model.method.loss_terms()["flops"] >= 0


def test_a_compiled_network_keeps_places_for_all_tokens() -> None:
    model, x = with_thresholds().eval(), random_images(3)
    seen: list[SiteInput] = []
    model.method.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.compiler.reset()
    with torch.no_grad():
        expected = model(x)
        assert seen[-1].tokens.shape[1] < 36
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), expected, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("varies", [True, False])
def test_it_exports_for_any_batch(varies: bool, tmp_path: Path) -> None:
    model = with_thresholds(varies=varies).float().eval()
    x = random_images(4).float()
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (x[:2],), dynamic_shapes=batch)
        torch.testing.assert_close(program.module()(x), expected, atol=1e-4, rtol=1e-4)
    assert_onnx_equals(program, x, expected, tmp_path)
