"""Decoupled Token Embedding for Merging, DTEM (Lee and Hong, arXiv 2412.10569)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.interfaces import Method
from ltm.merge import Chained, Merge, Selected, Soft, at_least_float32
from ltm.methods._options import WIDEST, check_number, check_switch, check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods._sequence import merge_in_sequence
from ltm.methods.matching import merge_pairs, reduce_site
from ltm.methods.relaxed import masses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Evidence, SiteInput, SiteKind

TAU = 0.1
WIDE = 1024  # channels of a token from which the embedding has the width of two heads
_HEAD = 64  # channels of a head where the backbone does not say
_SMALLEST = torch.finfo(torch.float32).eps


def assign_softly(cosine: Tensor, leave: int, tau: float, partners: int) -> Tensor:
    """Which part of each A token joins each B token, [B, A, B tokens], for their cosines.

    A token has its `partners` most similar B tokens. `leave` rounds of a softmax over all pairs of
    cosine / tau^2; after each one the logarithm of what has not gone yet of an A token, tau times
    as strong, is added. Of no token more than all goes.
    """
    logits, partner = cosine.topk(min(partners, cosine.shape[2]))
    logits = logits / tau
    goes = torch.zeros_like(logits)
    for _ in range(leave):
        once = (logits / tau).flatten(1).softmax(1).view_as(logits)
        goes = goes + once
        logits = logits + (1 - once.sum(2, keepdim=True)).clamp_min(_SMALLEST).log()
    goes = goes / goes.sum(2, keepdim=True).detach().clamp_min(1)
    return torch.zeros_like(cosine).scatter(2, partner, goes)


def merge_softly(
    embedding: Tensor, mass: Tensor, tokens: int, leave: int, *, tau: float, partners: int
) -> Chained:
    """DTEM's step in training, on embedding [B, N, dim] and mass [B, N]: no token is removed.

    The first `tokens` take part: those in even places are A, the others B. A B token becomes the
    mean of itself and the parts that join it, and its mass grows by theirs; an A token stays as it
    is and loses the mass. Afterwards those that took part lie in the order of their masses, the
    largest first.
    """
    B, N = mass.shape
    unit = F.normalize(embedding, dim=-1)
    cosine = unit[:, :tokens:2] @ unit[:, 1:tokens:2].transpose(1, 2)
    sources, targets = cosine.shape[1:]
    joins = assign_softly(cosine, min(leave, targets), tau, partners)

    number = torch.arange(N, device=mass.device)
    order = torch.cat([number[:tokens:2], number[1:tokens:2], number[tokens:]])
    mass = mass[:, order]
    rows = mass[:, :sources, None] * joins
    incoming = F.pad(rows, (sources, N - tokens, 0, N - sources))
    left = 1 - joins.sum(2)
    left = left + (left.clamp(0, 1) - left).detach()
    after = torch.cat([masses(mass[:, :sources], left), (mass + incoming.sum(1))[:, sources:]], 1)
    merged = Chained(Selected(order.expand(B, -1), N), Soft(mass, incoming, after))

    largest = after[:, :tokens].argsort(dim=-1, descending=True, stable=True)
    order = torch.cat([largest, number[tokens:].expand(B, -1)], 1)
    return Chained(merged, Selected(order, N))


@register_method("dtem")
class DecoupledEmbedding(Method):
    """DTEM (arXiv 2412.10569): ToMe's matching, on an embedding that is learned for it.

    A linear map of the block's normed input, e = W norm1(x) + b, takes the place of the keys; its
    rows could be further ones of qkv. Tokens merge between attention and MLP of every block. In
    training the matching is relaxed, see `merge_softly`, and all tokens stay with what is left of
    their mass, so that the loss of the task teaches W what to merge; the first tokens, as many as
    the plan has at that block, take part in the next matching. Outside of training it is ToMe's,
    hard, with the class token counted in the split and tokens in ToMe's order [A that are left, B].
    The embedding does not reach the tokens in any other way.

    Learned: W and b of every block, (D + 1) x dim. Regimes: the embedding alone with the backbone
    frozen (`modular`), or all weights together, fine-tuned or from scratch.

    Ours: a plan that more than half of the tokens leave a block by takes several matchings, in
    training one, which moves half. Where a grid has to stay, matching is hard in training, too, by
    our rule of rows and columns; W learns since a token weighs its size times
    sigmoid((c - 1) / tau), with c the cosine to the mean embedding of its slot. Where a block's
    normed input is not to be had, it is the token, normalised without learned weights.

    dim: the width of a head, of two where tokens have 1024 channels or more. tau: 0.1.
    partners: 3, how many B tokens a token can join in training.
    modular: freeze everything but the embedding.
    """

    wants: frozenset[Evidence] = frozenset({"normed_input"})
    spread = "constant"
    learns_mass = True

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        dim: int | None = None,
        tau: float = TAU,
        partners: int = 3,
        modular: bool = False,
    ) -> None:
        super().__init__()
        width = None if dim is None else check_whole("dim", dim, WIDEST)
        self.tau = check_number("tau", tau, above=0)
        self.partners = check_whole("partners", partners)
        self.freezes_backbone = check_switch("modular", modular)
        self.numbers = {name: i for i, name in enumerate(sites)}
        self.embed = nn.ModuleList(
            nn.Linear(site.dim, width or (site.head_dim or _HEAD) * (1 + (site.dim >= WIDE)))
            for site in sites.values()
        )

    def forward(self, given: SiteInput) -> Merge:
        tokens, site, mass = given.tokens, given.site, given.mass
        embed: Any = self.embed[self.numbers[site.name]]
        with full_precision(tokens):
            if given.normed_input is None:
                normed = F.layer_norm(at_least_float32(tokens), (site.dim,))
            else:
                normed = given.normed_input
            embedding = at_least_float32(embed(normed.detach().to(embed.weight.dtype)))
            ones = embedding.new_ones(embedding.shape[:2])
            mass = ones if mass is None else mass.to(ones.dtype)
            if not isinstance(site.kept, int):
                merge = reduce_site(embedding, mass, site, merge_pairs)
                own = F.cosine_similarity(embedding, merge.unmerge(merge(embedding)), dim=-1)
                weight = mass * ((own - 1) / self.tau).sigmoid()
                return type(merge).normalised(merge.slot, weight, merge.slots)
            if not self.training:
                step = partial(merge_in_sequence, prefix=given.prefix)
                return reduce_site(embedding, mass, site, step)
            return merge_softly(
                embedding,
                mass,
                site.tokens,
                site.tokens - site.slots,
                tau=self.tau,
                partners=self.partners,
            )
