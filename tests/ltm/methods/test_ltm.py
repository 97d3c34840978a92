"""LTM's start: what no other token resembles stays, the rest joins it, sizes count, and then it
learns. What version 0.1 stored starts as it did then."""

from typing import Any

import pytest
import torch
from torch import nn

import ltm
from ltm.checkpoints import load_checkpoint
from ltm.methods.ltm import distinctness

from .written_out import CLASSY, POOLED, State, assert_agrees, cosine, create


def keep_the_distinct(s: State) -> None:
    """A token may leave if another one resembles it, but never both of a pair."""
    if s.kept is None:
        return
    keys = s.keys[s.prefix :]
    N = len(keys)

    def nearest(n: int, among: list[int]) -> int:
        return max((m for m in among if m != n), key=lambda m: cosine(keys[n], keys[m]))

    near = [nearest(n, [*range(N)]) for n in range(N)]
    score = [
        1.0 if near[near[n]] == n and n < near[n] else -cosine(keys[n], keys[near[n]])
        for n in range(N)
    ]
    anchors = sorted(sorted(range(N), key=lambda n: -score[n])[: s.kept])
    slots = {a: [a] for a in anchors}
    for n in set(range(N)) - set(anchors):
        slots[nearest(n, anchors)].append(n)
    s.replace([slots[a] for a in anchors])


@pytest.mark.parametrize(
    ("backbone", "plan"),
    [
        (POOLED, {"blocks.0": 20}),
        (POOLED, {"blocks.0": 40, "blocks.1": 18, "blocks.3": 7}),
        (CLASSY, {"blocks.0": 30, "blocks.5": 12}),
    ],
)
def test_a_new_network_is_that_of_the_formula(backbone: str, plan: Any) -> None:
    model, images = create(backbone, "ltm", plan=plan)
    assert_agrees(model, images, keep_the_distinct)


def test_of_a_pair_one_stays() -> None:
    angles = torch.tensor([0.0, 1.0, 50.0, 90.0, 91.5]).deg2rad()  # two pairs and a lonely one
    unit = torch.stack([angles.cos(), angles.sin()], -1)[None]
    order = distinctness(unit @ unit.transpose(1, 2))[0].argsort(descending=True)
    assert set(order[:3].tolist()) == {0, 2, 3}


def trained(**options: Any) -> Any:
    """A network whose mask has learned."""
    torch.manual_seed(0)
    model: Any = ltm.create_model(POOLED, num_classes=5, **options)
    with torch.no_grad():
        for parameter in model.method.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def test_saliency_chooses_too() -> None:
    model, x = trained(compression_ratio=0.5), torch.randn(2, 3, 32, 32)
    learned = ltm.merges(model, x)[0].merge.weights() > 0
    for mask in model.method.masks.values():
        mask.project.weight[-1] = 0
    assert not torch.equal(learned, ltm.merges(model, x)[0].merge.weights() > 0)


@torch.no_grad()
def test_weights_of_version_0_1_choose_by_saliency_alone(tmp_path: Any) -> None:
    """They do not have the mark of the prior; nor have they after they were stored again."""
    model, x = trained(plan={"blocks.0": 30, "blocks.2": 12}), torch.randn(2, 3, 32, 32)
    old = {key: value for key, value in model.state_dict().items() if not key.endswith(".prior")}
    torch.save(old, tmp_path / "old.pt")
    again = ltm.create_model(
        POOLED, num_classes=5, plan=model.plan, checkpoint=str(tmp_path / "old.pt")
    ).eval()
    assert again.state_dict().keys() == old.keys()
    first: Any = ltm.merges(again, x)[0].merge
    h = nn.functional.layer_norm(tokens_at(again, x, "blocks.0"), (again.embed_dim,))
    saliency = h @ again.method.masks[str(again.embed_dim)].project.weight[-1]
    anchors = saliency.topk(30).indices.sort(1).values
    assert torch.equal(first.slot.gather(1, anchors), torch.arange(30).expand(2, 30))
    assert not torch.equal(again(x), model(x))
    # and with weights of now it is a network of now
    torch.save(model.state_dict(), tmp_path / "new.pt")
    load_checkpoint(again, tmp_path / "new.pt")
    assert torch.equal(again(x), model(x))


def tokens_at(model: Any, x: torch.Tensor, site: str) -> torch.Tensor:
    seen = []
    hook = model.method.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    model(x)
    hook.remove()
    return next(given.tokens for given in seen if given.site.name == site)
