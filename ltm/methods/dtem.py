"""Decoupled Token Embedding for Merging, DTEM (Lee and Hong, arXiv 2412.10569)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from ltm.interfaces import Method
from ltm.merge import Merge, Soft, at_least_float32, presence
from ltm.methods._options import WIDEST, check_number, check_switch, check_whole
from ltm.methods._precision import full_precision
from ltm.methods._registry import register_method
from ltm.methods.matching import merge_pairs, reduce_site
from ltm.methods.relaxed import partial_merge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import SiteInput, SiteKind

TAU = 0.1


def merge_softly(embedding: Tensor, mass: Tensor, leave: int, tau: float) -> Soft:
    """A relaxed matching that about `leave` of the tokens [B, N] leave by.

    With cosines c_ab between A and B tokens: p_ab = softmax_b(c_ab / tau + log s_b) says where a
    token would go, and its score is sum_b p_ab c_ab. It goes by alpha_a = sigmoid((score_a - t) /
    tau), where t lies between the k-th and the next score, and the part alpha_a p_ab of it joins b.
    """
    unit = F.normalize(embedding, dim=-1)
    cosine = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    target = (cosine / tau + mass[:, None, 1::2].log()).softmax(-1)
    # tokens that have left already are no candidates
    score = (target * cosine).sum(-1) + tau * presence(mass[:, ::2]).log()
    ranked = score.detach().sort(-1, descending=True).values
    leave = min(leave, ranked.shape[1])
    after = ranked[:, leave] if leave < ranked.shape[1] else ranked[:, -1] - 2 * tau
    bound = (ranked[:, leave - 1] + after) / 2
    goes = ((score - bound[:, None]) / tau).sigmoid()
    rows = mass.new_zeros(*cosine.shape[:2], mass.shape[1])
    rows[:, :, 1::2] = (mass[:, ::2] * goes)[..., None] * target
    return partial_merge(mass, goes, rows)


@register_method("dtem")
class DecoupledEmbedding(Method):
    """DTEM (arXiv 2412.10569): ToMe's matching, on an embedding that is learned for it.

    A linear map gives every token of a block e = W LayerNorm(x), of `dim` channels, in the place
    of the keys. In training the matching is relaxed, see `merge_softly`, and all tokens stay with
    what is left of their mass, so that the loss of the task teaches W what to merge; outside of
    training it is ToMe's, hard. The embedding does not reach the tokens in any other way.

    Learned: W of every block, dim x D. Regimes: the embedding alone with the backbone frozen
    (`modular`), or all weights together, fine-tuned or from scratch.

    Ours: the relaxation of the k largest by a sigmoid around the k-th. Where a grid has to stay,
    matching is hard in training, too; W learns since a token weighs its size times
    sigmoid((c - 1) / tau), with c the cosine to the mean embedding of its slot.

    dim: 64. tau: 0.1. modular: freeze everything but the embedding.
    """

    spread = "constant"
    learns_mass = True

    def __init__(
        self,
        sites: Mapping[str, SiteKind],
        dim: int = 64,
        tau: float = TAU,
        modular: bool = False,
    ) -> None:
        super().__init__()
        dim = check_whole("dim", dim, WIDEST)
        self.tau = check_number("tau", tau, above=0)
        self.freezes_backbone = check_switch("modular", modular)
        self.numbers = {name: i for i, name in enumerate(sites)}
        self.embed = nn.ModuleList(nn.Linear(site.dim, dim, bias=False) for site in sites.values())

    def forward(self, given: SiteInput) -> Merge:
        tokens, site, mass = given.tokens, given.site, given.mass
        embed: Any = self.embed[self.numbers[site.name]]
        with full_precision(tokens):
            h = F.layer_norm(at_least_float32(tokens.detach()), (site.dim,))
            embedding = at_least_float32(embed(h.to(embed.weight.dtype)))
            ones = embedding.new_ones(embedding.shape[:2])
            mass = ones if mass is None else mass.to(ones.dtype)
            if self.training and isinstance(site.kept, int):
                return merge_softly(embedding, mass, site.tokens - site.slots, self.tau)
            merge = reduce_site(embedding, mass, site, merge_pairs)
            if isinstance(site.kept, int):
                return merge
            own = F.cosine_similarity(embedding, merge.unmerge(merge(embedding)), dim=-1)
            weight = mass * ((own - 1) / self.tau).sigmoid()
            return type(merge).normalised(merge.slot, weight, merge.slots)
