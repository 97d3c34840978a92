"""DiffRate: learned numbers of tokens that are pruned and merged, and the plan that they make."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm
from ltm.methods.ranked import prune_and_merge, prune_and_merge_softly, rates

from .written_out import CLASSY, POOLED, State, assert_agrees, create, network

TINY = "vit_nano_patch4_32"


def learned(backbone: str) -> tuple[Any, Tensor, dict[int, list[int]]]:
    """A network that has learned something, images, and the counts of each block by the formula."""
    model, images = create(backbone, "diffrate", images=3, compression_ratio=0.7)
    logits, N = model.method.logits, model.method.tokens
    blocks = len(logits)
    wanted = [
        [N * (1 - (block + part) / (blocks + 1)) for part in (0.5, 1)] for block in range(blocks)
    ]
    wanted[1] = wanted[0]  # a block that takes nothing away
    wanted[-1][0] = 1.3 * wanted[-1][0]  # prunes nothing, and merges
    counts = {}
    with torch.no_grad():
        for block in range(blocks):
            for kind in range(2):
                for c in range(N):
                    logits[block, kind, c] = -(((N - c - wanted[block][kind]) / 4) ** 2)
            soft = [[math.exp(value) for value in row] for row in logits[block].tolist()]
            counts[block + 1] = [
                math.ceil(sum((N - c) * p for c, p in enumerate(row)) / sum(row)) for row in soft
            ]
    model.method.after_step(model, 1, 1)
    return model, images, counts


class ByHand:
    """Prunes, then merges, one image and one token at a time."""

    def __init__(self, counts: dict[int, list[int]], *, training: bool = False) -> None:
        self.counts, self.training = counts, training
        self.kept: dict[int, int] = {}
        self.merged = 0

    def __call__(self, s: State) -> None:
        x, sizes = s.tokens, s.sizes[s.prefix :]
        score = s.class_attention().mean(0).tolist()
        prune, merge = self.counts.get(s.block, [len(x), len(x)])
        order = sorted(range(len(x)), key=lambda n: -score[n])[:prune]
        kept, others = order[:merge], order[merge:]
        members, size = [[n] for n in kept], [sizes[n] for n in kept]
        for n in others:
            cosine = [float(F.cosine_similarity(x[n], x[m], 0)) for m in kept]
            best = max(range(len(kept)), key=lambda k: cosine[k])
            brought = sizes[n] * cosine[best]
            members[best].append(n)
            size[best] = size[best] + (brought.clamp(1) if self.training else brought)
        self.kept[s.block] = len(kept)
        self.merged += len(others)
        s.replace(members, [x[m].mean(0) for m in members], size)


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_the_network_is_that_of_the_formula(backbone: str) -> None:
    model, images, counts = learned(backbone)
    by_hand = ByHand(counts)
    assert_agrees(model, images, by_hand)
    assert by_hand.merged > 0
    tokens = model.method.tokens
    assert [model.plan.get(f"blocks.{block}", 0) for block in by_hand.kept] == [
        kept if kept < before else 0
        for kept, before in zip(
            by_hand.kept.values(), [tokens, *by_hand.kept.values()], strict=False
        )
    ]


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_masked_in_training_is_what_leaves_afterwards(backbone: str) -> None:
    model, images, counts = learned(backbone)
    by_hand = ByHand(counts, training=True)
    with torch.no_grad():
        expected = torch.stack([network(model, image, by_hand).logits for image in images])
        torch.testing.assert_close(model.train()(images), expected, rtol=0, atol=1e-5)


def around(*wanted: float, tokens: int = 6) -> Tensor:
    """Logits whose counts are near those that are wanted, [len(wanted), tokens]."""
    n = torch.arange(tokens, 0, -1, dtype=torch.float64)
    return torch.stack([-((n - count) ** 2) for count in wanted])


@pytest.mark.parametrize(("wanted", "acts"), [((4.6, 2.6), (1, 1)), ((4.6, 5.5), (1, 0))])
def test_the_gradient_of_a_mask_is_that_of_the_chance_to_stay(
    wanted: tuple[float, float], acts: tuple[int, int]
) -> None:
    """Of a count that takes nothing away there is none."""
    logits = around(*wanted).requires_grad_()
    score = torch.tensor([[0.3, 0.1, 0.2, 0.25, 0.05, 0.15]], dtype=torch.float64)
    torch.manual_seed(0)
    unit = F.normalize(torch.randn(1, 6, 4, dtype=torch.float64), dim=-1)
    counts, beyond = rates(logits, 6, 1)
    merge = prune_and_merge_softly(score, unit, torch.ones_like(score), counts, beyond)
    kept = int(counts.min())
    assert int((merge.mass > 0.5).sum()) == kept < 6
    chances = logits.softmax(-1)
    for j, token in enumerate([0, 3, 2, 5, 1, 4][:kept]):
        stay = [chances[kind, : 6 - j].sum() for kind in range(2)]  # candidates 6, 5, ... j + 1
        size = merge.mass[0, token]
        expected = size.detach() * (acts[0] * stay[0] + acts[1] * stay[1])
        (gradient,) = torch.autograd.grad(size, logits, retain_graph=True)
        (by_hand,) = torch.autograd.grad(expected, logits, retain_graph=True)
        torch.testing.assert_close(gradient, by_hand, atol=1e-5, rtol=1e-5)


def test_a_token_that_has_left_keeps_the_gradient_of_its_mask() -> None:
    first, second = around(4.6, 5.5).requires_grad_(), around(2.6, 3.5).requires_grad_()
    score = torch.tensor([[0.3, 0.1, 0.2, 0.25, 0.05, 0.15]], dtype=torch.float64)
    unit = F.normalize(torch.ones(1, 6, 4, dtype=torch.float64), dim=-1)
    mass = torch.ones_like(score)
    for logits in (first, second):
        mass = prune_and_merge_softly(score, unit, mass, *rates(logits, 6, 1)).mass
    assert (mass > 0.5).tolist() == [[True, False, True, True, False, False]]
    (of_first,) = torch.autograd.grad(mass[0, 4], first)  # the last in the order, j = 5
    (by_hand,) = torch.autograd.grad(first.softmax(-1)[0, :1].sum(), first)
    torch.testing.assert_close(of_first, by_hand, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_mask_counts_the_size_that_a_token_brought() -> None:
    """Of sizes 1, 1 and 4 the last joins the first, whose cosine with it is 0.8."""
    beyond = torch.tensor([[1.0, 1, 1], [1, 1, 0.3]], requires_grad=True)
    unit = torch.tensor([[[1.0, 0], [0, 1], [0.8, 0.6]]])
    score, mass = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[1.0, 1, 4]])
    merge = prune_and_merge_softly(score, unit, mass, torch.tensor([3.0, 2.0]), beyond)
    torch.testing.assert_close(merge.mass[0, :2], torch.tensor([1 + 4 * 0.8, 1.0]))
    (gradient,) = torch.autograd.grad(merge.mass[0, 2], beyond)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0, 0], [0, 0, 4 * 0.8]]))


def test_three_tokens_by_hand() -> None:
    """Of ranks 0 to 3, two stay, the third joins the first, the last is pruned."""
    score = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    unit = F.normalize(torch.tensor([[[1.0, 0], [1, 0], [1, 1], [0, 1]]]), dim=-1)
    unit[0, 2] = torch.tensor([0.8, 0.6])
    merge = prune_and_merge(score, unit, 2, torch.tensor(3.0))
    x = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])
    assert merge(x).flatten().tolist() == [3, 8]
    mass = torch.tensor([[1.0, 1.0, 2.0, 3.0]])
    torch.testing.assert_close(merge.sizes(mass), torch.tensor([[1 + 2 * 0.8, 3.0]]))
    assert merge.unmerge(merge(x)).flatten().tolist() == [0, 3, 3, 8]


def gmacs(kept: list[float], tokens: int, dim: int, prefix: int) -> float:
    total, arrive = 0.0, tokens + prefix
    for count in kept:
        total += 4 * arrive * dim**2 + 2 * arrive**2 * dim + 8 * (count + prefix) * dim**2
        arrive = int(count) + prefix
    return total / 1e9


def test_the_loss_is_the_squared_distance_in_gmacs() -> None:
    model, images, counts = learned("vit_tiny_patch16_224")
    planned = ltm.create_model(
        "vit_tiny_patch16_224", "diffrate", image_size=96, compression_ratio=0.7
    ).plan
    model.set_compression(planned)
    model.method.before_training(model)
    model.train()(images)
    kept, target = [36.0], [36.0]
    for block, (prune, merge) in counts.items():
        kept.append(min(kept[-1], prune, merge))
        target.append(planned.get(f"blocks.{block}", target[-1]))  # type: ignore[union-attr]
    gap = gmacs(kept, 36, 192, 1) - gmacs(target, 36, 192, 1)
    assert float(model.method.loss_terms()["gmacs"].detach()) == pytest.approx(5 * gap**2, rel=1e-9)


def test_a_budget_above_what_is_kept_lets_more_stay() -> None:
    model: Any = ltm.create_model(TINY, "diffrate", compression_ratio=0.9)
    model.method.before_training(model)
    model.train()(torch.randn(2, 3, 32, 32))
    model.method.loss_terms()["gmacs"].backward()
    step = -model.method.logits.grad
    assert (step[..., 0] > 0).all()  # all tokens
    assert (step[..., -1] < 0).all()  # one


def test_the_plan_is_what_was_learned_and_travels_with_the_weights(tmp_path: Path) -> None:
    model: Any = ltm.create_model(TINY, "diffrate", compression_ratio=0.7, num_classes=5)
    asked = model.plan
    assert model.method.freezes_backbone
    model.method.before_training(model)
    assert model.plan == asked
    with torch.no_grad():
        model.method.logits[0, :, 20] = 20  # 44 of 64
        model.method.logits[1, :, 0] = 20  # all
        model.method.logits[2, 1, 54] = 20  # 10
    model.method.after_step(model, 1, 10)
    assert model.plan == {"blocks.1": 44, "blocks.3": 11}  # rounded up
    cost = ltm.count(model).gmacs

    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other: Any = ltm.create_model(
        TINY, "diffrate", compression_ratio=0.7, num_classes=5, checkpoint=tmp_path / "weights.pt"
    )
    assert other.plan == model.plan
    assert ltm.count(other).gmacs == cost
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(x), model.eval()(x))

    # a run that goes on has the target that it had
    target = model.method.loss_terms()["gmacs"]
    torch.testing.assert_close(other.method.loss_terms()["gmacs"], target)
    other.method.before_training(other)
    torch.testing.assert_close(other.method.loss_terms()["gmacs"], target)
    # and one that starts from these weights has the plan that is asked for
    other.before_finetuning()
    assert other.plan == asked
    other.method.before_training(other)
    assert other.plan == asked


def test_the_first_block_keeps_all_tokens() -> None:
    with pytest.raises(ltm.FieldError, match=r"blocks\.0, where diffrate keeps all"):
        ltm.create_model(TINY, "diffrate", plan={"blocks.0": 30})


def test_learned_counts_are_for_one_number_of_tokens() -> None:
    model: Any = ltm.create_model(TINY, "diffrate", compression_ratio=0.7)
    model.set_input_size(48)
    assert model.method.logits.shape == (3, 2, 144)
    torch.nn.init.normal_(model.method.logits)
    with pytest.raises(ltm.FieldError, match="learned for 144"):
        model.set_input_size(32)
    assert model.method.logits.shape == (3, 2, 144)


def test_counts_in_steps() -> None:
    model: Any = ltm.create_model(TINY, "diffrate", compression_ratio=0.7, granularity=10)
    assert model.method.logits.shape == (3, 2, 7)  # 64, 54, ... 4
    with torch.no_grad():
        model.method.logits[:, :, 6] = 50
    model.method.after_step(model, 1, 1)
    assert model.plan == {"blocks.1": 4}
