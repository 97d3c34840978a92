"""The bound, its closed-form gradient, and statistics that stream."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import multiprocessing as mp
from torch.nn import functional as F

from ltm import bottleneck
from ltm.bottleneck import (
    StreamingBottleneck,
    ib_bound,
    logit_gradient,
    mask_gradient,
    mutual_information,
    soft_assignment,
)

C, K, D = 4, 6, 16


@pytest.mark.parametrize("normalised", [False, True])
def test_closed_form_gradient_is_autograds(normalised: bool) -> None:
    torch.manual_seed(0)
    n, N, P, E, beta = 5, 12, 7, 3, 1.5
    real = {"dtype": torch.float64}
    X, S = torch.randn(n, N, E, **real), torch.randn(n, N, P, **real, requires_grad=True)
    centroids = torch.randn(K, P * E, **real) / P
    log_q = torch.randn(C, K, **real).log_softmax(-1)
    labels = torch.randint(C, (n,))
    phi_input = torch.rand(n, K, **real).softmax(-1)

    G = S.softmax(1)
    G.retain_grad()
    u = (G.transpose(1, 2) @ X).flatten(1)
    u = F.normalize(u, dim=-1) if normalised else u
    ib_bound(phi_input, soft_assignment(u, centroids, beta), log_q, labels).backward()

    G_ = G.detach()
    grad_G = mask_gradient(X, G_, centroids, log_q, labels, beta, normalised=normalised)
    torch.testing.assert_close(grad_G, G.grad, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(logit_gradient(G_, grad_G), S.grad, atol=1e-13, rtol=1e-12)


def test_assignment_is_the_softmax_of_distances() -> None:
    u, c = torch.randn(5, D), torch.randn(K, D)
    expected = (-0.7 * torch.cdist(u, c).square()).softmax(-1)
    torch.testing.assert_close(soft_assignment(u, c, 0.7), expected)


def test_mutual_information_of_known_tables() -> None:
    assert mutual_information(torch.eye(4)) == pytest.approx(torch.tensor(4.0).log())
    assert mutual_information(torch.ones(3, 5)) == pytest.approx(0, abs=1e-12)
    assert mutual_information(torch.zeros(3, 5)) == 0


def batches(steps: int, size: int = 32) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clustered features, and images that are their labels' own picture, with noise."""
    random = torch.Generator().manual_seed(3)
    centres, pictures = (
        torch.randn(C, D, generator=random),
        torch.randn(C, 3, 8, 8, generator=random),
    )
    for _ in range(steps):
        labels = torch.randint(C, (size,), generator=random)
        features = centres[labels] + 0.3 * torch.randn(size, D, generator=random)
        images = pictures[labels] + 0.3 * torch.randn(size, 3, 8, 8, generator=random)
        yield features, labels, images


def stream(steps: int = 8, micro_batches: int = 1, **options: float) -> StreamingBottleneck:
    bottleneck = StreamingBottleneck(C, D, **options)  # type: ignore[arg-type]
    for batch in batches(steps):
        for micro in zip(*(tensor.chunk(micro_batches) for tensor in batch), strict=True):
            bottleneck(*micro)
        bottleneck.sync()
    return bottleneck


def assert_same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-4, msg=name)


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world
    )
    for clusters in (C, K):
        bottleneck = StreamingBottleneck(C, D, clusters=clusters)
        for batch in batches(8):
            bottleneck(*(tensor[rank::world] for tensor in batch))
            bottleneck.sync()
        torch.save(bottleneck.state_dict(), f"{folder}/{rank}-{clusters}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_statistics_of_one(tmp_path: Path) -> None:
    # Not forked from here: a fork would keep the locks of the threads that this process has.
    mp.start_processes(_rank, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    for clusters in (C, K):
        one = stream(clusters=clusters).state_dict()
        for rank in range(2):
            assert_same_state(torch.load(tmp_path / f"{rank}-{clusters}.pt"), one)


def test_micro_batches_add_up_to_the_batch() -> None:
    assert_same_state(stream(micro_batches=4).state_dict(), stream().state_dict())


def test_the_order_of_samples_does_not_matter() -> None:
    shuffled = StreamingBottleneck(C, D)
    for batch in batches(8):
        order = torch.randperm(32)
        shuffled(*(tensor[order] for tensor in batch))
        shuffled.sync()
    assert_same_state(shuffled.state_dict(), stream().state_dict())


@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_inputs_are_compared_at_32_pixels(size: tuple[int, int]) -> None:
    images, features, labels = torch.rand(8, 3, *size), torch.randn(8, D), torch.arange(8) % C
    bottleneck = stream()
    whole = bottleneck(features, labels, images)
    small = bottleneck(features, labels, F.adaptive_avg_pool2d(images, 32))
    torch.testing.assert_close(whole, small)


def test_a_checkpoint_resumes_to_the_same_values() -> None:
    whole, first, second = (StreamingBottleneck(C, D) for _ in range(3))
    for step, batch in enumerate(batches(6)):
        if step == 3:
            second.load_state_dict(first.state_dict())
        for part in (whole, first if step < 3 else second):
            part(*batch)
            part.sync()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_when_the_seeds_are_noted_changes_no_value() -> None:
    never, always = StreamingBottleneck(C, D), StreamingBottleneck(C, D)
    for batch in batches(6):
        for part in (never, always):
            part(*batch)
            part.sync()
        always.note_seeded()
    assert never.seeded.all()
    for name, value in never.state_dict().items():
        assert torch.equal(value, always.state_dict()[name]), name


def test_statistics_find_the_classes() -> None:
    bottleneck = stream(steps=40, beta=10.0)
    summary = bottleneck.summary()
    assert summary["mi_label"] > 0.8 * torch.tensor(float(C)).log()
    assert summary["loss"] == pytest.approx(summary["mi_input"] - summary["mi_label"])
    assert 1 <= summary["perplexity"] < 2
    torch.testing.assert_close(bottleneck.log_q.exp().sum(1), torch.ones(C))
    assert bottleneck.log_q.exp().argmax(1).tolist() == list(range(C))


def test_a_cluster_that_lost_its_samples_splits_the_fullest_in_two() -> None:
    """Class 0 goes to one place after its start, class 1 to two: each place has a cluster again."""
    bottleneck = StreamingBottleneck(2, D, clusters=3, beta=20.0, window=400)
    places = F.normalize(torch.randn(3, D, generator=torch.Generator().manual_seed(1)), dim=1)
    random = torch.Generator().manual_seed(2)

    def feed(steps: int, of_class: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        for _ in range(steps):
            labels = torch.randint(2, (64,), generator=random)
            chance = torch.rand(64, generator=random)
            place = [of_class[y][int(u * len(of_class[y]))] for y, u in zip(labels, chance)]  # noqa: B905
            features = places[place] + 0.02 * torch.randn(64, D, generator=random)
            bottleneck(features, labels, labels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).float())
            bottleneck.sync()

    feed(20, ((0,), (1,)))
    feed(120, ((0,), (1, 2)))
    nearest = (places @ bottleneck.feature_centroids.T).max(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    assert (nearest.values > 0.95).all()
    samples = bottleneck.totals[0]
    # what clusters have was shared, not made: each sample still counts once
    torch.testing.assert_close(bottleneck.label_joint.sum(), samples, atol=1, rtol=0.01)
    torch.testing.assert_close(bottleneck.input_joint.sum(), samples, atol=1, rtol=0.01)
    assert bottleneck.summary()["mi_label"] == pytest.approx(math.log(2), abs=0.05)


def test_evaluation_leaves_the_statistics_alone() -> None:
    bottleneck = stream().eval()
    before = bottleneck.pending.clone()
    bottleneck(*next(batches(1)))
    assert torch.equal(bottleneck.pending, before)


def test_a_class_never_seen_leaves_everything_finite() -> None:
    bottleneck = StreamingBottleneck(C + 1, D)
    for batch in batches(4):
        bottleneck(*batch)
        bottleneck.sync()
    features, labels, images = next(batches(1))
    bound = bottleneck(features.requires_grad_(), torch.full_like(labels, C), images)
    bound.backward()
    assert bound.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert all(torch.tensor(value).isfinite() for value in bottleneck.summary().values())


def test_descending_the_bound_pulls_features_to_their_class() -> None:
    bottleneck = stream(steps=40)
    features, labels, images = next(batches(1))
    features = (features + torch.randn_like(features)).requires_grad_()
    before = bottleneck(features, labels, images)
    (grad,) = torch.autograd.grad(before, features)
    after = bottleneck(features - 10 * grad, labels, images)
    assert after < before
    assert not bottleneck(features.detach(), labels, images).requires_grad


def test_a_sync_before_backward_does_no_harm() -> None:
    gradients = []
    for sync in (False, True):
        bottleneck = stream()
        features, labels, images = next(batches(1))
        bound = bottleneck(features.requires_grad_(), labels, images)
        if sync:
            bottleneck.sync()
        bound.backward()
        gradients.append(features.grad)
    assert torch.equal(*gradients)


def test_autocast_does_not_reach_the_bound() -> None:
    bottleneck = stream()
    features, labels, images = next(batches(1))
    plain = bottleneck(features, labels, images)
    with torch.autocast("cpu", torch.bfloat16):
        bound = bottleneck(features, labels, images)
    assert bound.dtype == torch.float32
    assert torch.equal(bound, plain)


def test_a_faster_precision_of_training_does_not_reach_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[str] = []

    def noted(*args: Any) -> Tensor:
        used.append(torch.get_float32_matmul_precision())
        return soft_assignment(*args)

    monkeypatch.setattr(bottleneck, "soft_assignment", noted)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        StreamingBottleneck(C, D)(*next(iter(batches(1))))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert used == ["highest", "highest"]


@pytest.mark.parametrize(
    "wrong", [{"num_classes": 0}, {"clusters": -1}, {"beta": 0.0}, {"window": 0}]
)
def test_impossible_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StreamingBottleneck(**{"num_classes": C, "feature_dim": D, **wrong})  # type: ignore[arg-type]
