"""ATC: scikit-learn's clusters, for all images of a batch at once."""

import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

import ltm
from ltm.methods.atc import LINKAGES, agglomerate

from .written_out import CLASSY, POOLED, State, assert_agrees, create


def by_scikit_learn(distance: Tensor, clusters: int, linkage: str) -> list[list[int]]:
    """Members of each cluster, in the order of their first tokens."""
    fit = AgglomerativeClustering(n_clusters=clusters, metric="precomputed", linkage=linkage)
    labels = fit.fit(distance.numpy()).labels_
    return sorted([n for n in range(len(labels)) if labels[n] == c] for c in range(clusters))


def members(slot: Tensor, clusters: int) -> list[list[int]]:
    return [(slot == c).nonzero().flatten().tolist() for c in range(clusters)]


@pytest.mark.parametrize("linkage", LINKAGES)
@pytest.mark.parametrize("clusters", [1, 2, 9, 39, 40])
def test_clusters_are_those_of_scikit_learn(linkage: str, clusters: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 40, 6, dtype=torch.float64)
    distance = (x[:, :, None] - x[:, None]).norm(dim=-1)
    before = distance.clone()
    slots = agglomerate(distance, clusters, linkage)
    for slot, of_image in zip(slots, distance, strict=True):
        assert members(slot, clusters) == by_scikit_learn(of_image, clusters, linkage)
    assert torch.equal(distance, before)


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
@pytest.mark.parametrize("linkage", LINKAGES)
def test_the_network_is_that_of_the_formulas(backbone: str, linkage: str) -> None:
    def reduce(s: State) -> None:
        if s.kept is not None:
            unit = s.keys[s.prefix :] / s.keys[s.prefix :].norm(dim=1, keepdim=True)
            s.replace(by_scikit_learn(1 - unit @ unit.T, s.kept, linkage))

    model, images = create(backbone, "atc", compression_ratio=0.6, linkage=linkage)
    assert_agrees(model, images, reduce, in_order=True)


def test_linkages_differ_and_others_are_refused() -> None:
    """A chain of near tokens and one far from both ends."""
    x = torch.tensor([0.0, 1.0, 2.1, 3.3, 4.6, 6.5])
    distance = (x[:, None] - x)[None].abs()
    found = {linkage: agglomerate(distance, 3, linkage)[0].tolist() for linkage in LINKAGES}
    assert found["single"] == [0, 0, 0, 0, 1, 2]
    assert found["complete"] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ltm.FieldError, match="linkage"):
        ltm.create_model(POOLED, "atc", linkage="ward")
