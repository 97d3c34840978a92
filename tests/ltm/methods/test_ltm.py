"""LTM's starts: the most salient tokens stay, or tokens that are alike join and sizes count."""

from typing import Any

import pytest
import torch
from torch import nn

import ltm
from ltm.errors import FieldError
from ltm.methods.ltm import match_unless_salient

from .conftest import SIX
from .written_out import CLASSY, POOLED, State, assert_agrees, cosine, create


def join_the_alike(s: State) -> None:
    """Rounds of ToMe's matching, of at most half of the tokens, by keys; then means by size."""
    if s.kept is None:
        return
    metric = [*s.keys[s.prefix :]]
    slots = [[n] for n in range(len(metric))]
    while len(slots) > s.kept:
        B = range(1, len(slots), 2)
        edges = []
        for a in range(0, len(slots), 2):
            b = max(B, key=lambda b: cosine(metric[a], metric[b]))
            edges.append((cosine(metric[a], metric[b]), a, b))
        leave = min(len(slots) - s.kept, len(slots) // 2)
        gone = {a: b for _, a, b in sorted(edges, reverse=True)[:leave]}
        stay = [n for n in range(len(slots)) if n not in gone]
        of = {n: [n, *(a for a in gone if gone[a] == n)] for n in stay}
        metric = [sum(metric[m] for m in of[n]) / len(of[n]) for n in stay]  # type: ignore[misc]
        slots = [[t for m in of[n] for t in slots[m]] for n in stay]
    s.replace(slots)


@pytest.mark.parametrize(
    ("backbone", "plan"),
    [
        (POOLED, {"blocks.0": 20}),
        (POOLED, {"blocks.0": 40, "blocks.1": 18, "blocks.3": 7}),
        (CLASSY, {"blocks.0": 30, "blocks.5": 12}),
    ],
)
def test_a_new_network_is_that_of_the_formula(backbone: str, plan: Any) -> None:
    model, images = create(backbone, "ltm", plan=plan, start="alike")
    assert_agrees(model, images, join_the_alike)


def test_a_salient_token_stays_where_a_like_one_leaves() -> None:
    metric, saliency = SIX, torch.zeros(1, 6)
    # of A, 0, 2 and 4, token 0 is the most like one of B, 1, 3 and 5: token 3; then 4 is, to 1
    assert match_unless_salient(metric, saliency, 5).tolist() == [[2, 0, 1, 2, 3, 4]]
    saliency[0, 0] = 0.1
    assert match_unless_salient(metric, saliency, 5).tolist() == [[0, 1, 2, 3, 1, 4]]


def trained(start: str = "alike", **options: Any) -> Any:
    """A network whose mask has learned."""
    torch.manual_seed(0)
    model: Any = ltm.create_model(POOLED, num_classes=5, start=start, **options)
    with torch.no_grad():
        for parameter in model.method.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def test_saliency_chooses_too() -> None:
    model, x = trained(compression_ratio=0.7), torch.randn(2, 3, 32, 32)
    learned = ltm.merges(model, x)[0].merge.weights() > 0
    for mask in model.method.masks.values():
        mask.project.weight[-1] = 0
    assert not torch.equal(learned, ltm.merges(model, x)[0].merge.weights() > 0)


@torch.no_grad()
def test_by_default_the_most_salient_tokens_are_slots() -> None:
    model, x = trained(plan={"blocks.0": 30}, start="salient"), torch.randn(2, 3, 32, 32)
    seen: list[Any] = []
    hook = model.method.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    merge: Any = ltm.merges(model, x)[0].merge
    hook.remove()
    h = nn.functional.layer_norm(seen[0].tokens, (model.embed_dim,))
    saliency = h @ model.method.masks[str(model.embed_dim)].project.weight[-1]
    anchors = saliency.topk(30).indices.sort(1).values
    assert torch.equal(merge.slot.gather(1, anchors), torch.arange(30).expand(2, 30))


def test_another_start_is_refused() -> None:
    with pytest.raises(FieldError, match="'start' is 'random', allowed are salient, alike"):
        ltm.create_model(POOLED, start="random")
