"""The information bottleneck of a merged network: bound, gradient, and streaming statistics.

From "Efficient Visual Transformer by Learnable Token Merging" (arXiv 2407.15219), section 3 and
its appendix. With X_i the feature of input i, F_i that of its merged tokens, y_i its label,

    phi(u, a)  = softmax_a(-beta ||u - C_a||^2)
    Q(a | y)   = sum_i phi(F_i, a) 1[y_i = y] / sum_i 1[y_i = y]
    IBB        = 1/n sum_i sum_b phi(X_i, b) log phi(X_i, b)
                 - 1/n sum_i sum_a phi(F_i, a) log Q(a | y_i)

All information is in nats. Legend: n samples, K clusters, C classes, D channels of a feature, and,
for one merging mask, N tokens, P slots, E channels of a token.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltm.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INPUT_SIDE = 32  # pixels: inputs are compared at this size
_INPUT_DIM = 3 * _INPUT_SIDE**2
_EPS = 1e-6
_EMPTY = 0.01
"""A cluster with less than this part of what clusters have on average starts anew."""
_APART = 0.1
"""How far clusters that start in one place are moved apart, as a part of their length."""


def soft_assignment(u: Tensor, centroids: Tensor, beta: float) -> Tensor:
    """phi: features u [n, D] to centroids [K, D] -> [n, K], rows sum to 1."""
    # ||u||^2 is the same for all clusters and leaves the softmax as it is
    return (beta * (2 * u @ centroids.T - centroids.square().sum(-1))).softmax(-1)


def input_term(phi: Tensor) -> Tensor:
    """1/n sum phi log phi, for assignments of inputs [n, K]. It does not depend on merging."""
    return torch.special.entr(phi).sum(-1).mean().neg()


def label_term(phi: Tensor, log_q: Tensor, labels: Tensor) -> Tensor:
    """-1/n sum phi log Q(a | y), for assignments [n, K], log Q [C, K] and labels [n]."""
    return -(phi * log_q[labels]).sum(-1).mean()


def ib_bound(phi_input: Tensor, phi: Tensor, log_q: Tensor, labels: Tensor) -> Tensor:
    """IBB, the upper bound on I(F; X) - I(F; Y) up to a constant: a scalar."""
    return input_term(phi_input) + label_term(phi, log_q, labels)


def mask_gradient(
    X: Tensor,
    G: Tensor,
    centroids: Tensor,
    log_q: Tensor,
    labels: Tensor,
    beta: float,
    *,
    normalised: bool = False,
) -> Tensor:
    """The gradient of IBB by the mask, in closed form (ours; agrees with autograd).

    X: tokens [n, N, E]; G: mask [n, N, P]; centroids [K, P * E]; log_q [C, K]; labels [n].
    With u_i = vec(G_i^T X_i), w_ia = log Q(a | y_i) and l_i = sum_a phi_ia w_ia,

        grad_G = -(2 beta / n) X_i A_i^T,   A_i = sum_a phi_ia (w_ia - l_i) C_a as [P, E]

    normalised: u_i is divided by its norm before the assignment; A_i is then projected on the
    sphere, (I - u u^T) / ||u||. Returns [n, N, P].
    """
    n, _, E = X.shape
    P = G.shape[-1]
    u = (G.transpose(1, 2) @ X).flatten(1)
    norm = u.norm(dim=-1, keepdim=True)
    if normalised:
        u = u / norm
    phi = soft_assignment(u, centroids, beta)
    w = log_q[labels]
    A = (phi * (w - (phi * w).sum(-1, keepdim=True))) @ centroids
    if normalised:
        A = (A - u * (u * A).sum(-1, keepdim=True)) / norm
    return -(2 * beta / n) * X @ A.view(n, P, E).transpose(1, 2)


def logit_gradient(G: Tensor, grad_G: Tensor) -> Tensor:
    """The gradient by the logits S, where G [n, N, P] is their softmax over the N sources."""
    return G * (grad_G - (G * grad_G).sum(1, keepdim=True))


def mutual_information(joint: Tensor) -> Tensor:
    """I(A; B) in nats, from unnormalised joint frequencies [A, B]; 0 when they are all 0."""
    p = joint.double() / joint.double().sum().clamp_min(torch.finfo(torch.float64).tiny)
    entropy = torch.special.entr
    return entropy(p.sum(0)).sum() + entropy(p.sum(1)).sum() - entropy(p).sum()


class StreamingBottleneck(nn.Module):
    """IBB against centroids and Q that follow the features that training computes anyway.

    The published script clusters all training features once an epoch, in an extra forward pass.
    Here (ours) k-means goes along with training: a call collects sums over its micro-batch, as
    batch norm does, `sync` adds those of all ranks in one all-reduce and folds them into averages
    over the last `window` samples. Centroids and Q are averages over the same samples, and a
    cluster keeps its row while it moves, so Q always belongs to the current centroids. One that
    loses its samples to others splits the fullest in two. Sums do not depend on the order of
    samples or on the rank that saw them.

        bound = bottleneck(features, labels, images)   # every micro-batch
        bottleneck.share()                             # before the last one's backward, optional
        bottleneck.sync()                              # every optimizer step, on every rank
        bottleneck.note_seeded()                       # now and then, optional

    Features, inputs and centroids are L2-normalised; inputs are compared at 32 x 32 pixels. All
    arithmetic is in float32, under autocast too. All state is in buffers: a checkpoint resumes to
    the same values. Nothing is trained here, so it stays outside of a DeepSpeed engine.

    num_classes: C. feature_dim: D, the width of the pooled feature. clusters: K, C when omitted.
    beta: sharpness of assignments; at 1, over 1000 clusters, they are nearly uniform.
    window: samples that an average remembers (its time constant); 100 a class when omitted.
    smoothing: weight, in samples a class, of the uniform distribution in Q.
    """

    def __init__(
        self,
        num_classes: int,
        feature_dim: int,
        *,
        clusters: int | None = None,
        beta: float = 5.0,
        window: int | None = None,
        smoothing: float = 1.0,
    ) -> None:
        super().__init__()
        clusters = num_classes if clusters is None else clusters
        window = 100 * num_classes if window is None else window
        named: dict[str, float] = {"num_classes": num_classes, "feature_dim": feature_dim}
        named |= {"clusters": clusters, "beta": beta, "window": window, "smoothing": smoothing}
        for name, value in named.items():
            if not value > 0:
                raise FieldError(name, value, "a number above 0")
        self.num_classes, self.clusters, self.beta = num_classes, clusters, beta
        self.window, self.smoothing = window, smoothing
        K, C, D = clusters, num_classes, feature_dim

        # a fixed seed: every rank starts with the same placeholders
        random = torch.Generator().manual_seed(0)
        for kind, width in (("feature", D), ("input", _INPUT_DIM)):
            start = F.normalize(torch.randn(K, width, generator=random), dim=1)
            self.register_buffer(f"{kind}_centroids", start)
        self.register_buffer("log_q", torch.full((C, K), -math.log(K)))
        self.register_buffer("seeded", torch.zeros(K, dtype=torch.bool))
        self._averages = {
            "feature_sum": (K, D),
            "input_sum": (K, _INPUT_DIM),
            "label_joint": (C, K),
            "input_joint": (K, K),
            "totals": (3,),  # samples, their IBB, their entropy of phi(F)
        }
        self._seeds = {"feature_seed": (C, D), "input_seed": (C, _INPUT_DIM), "label_count": (C,)}
        for name, shape in self._averages.items():
            self.register_buffer(name, torch.zeros(shape))
        sums = [*self._averages.values(), *self._seeds.values()]
        self._length = sum(math.prod(shape) for shape in self._averages.values())
        # empty between steps, when checkpoints are written
        self.register_buffer(
            "pending", torch.zeros(sum(math.prod(shape) for shape in sums)), persistent=False
        )
        self._all_seeded = False
        self._sharing: torch.distributed.Work | None = None
        self.register_load_state_dict_post_hook(StreamingBottleneck._loaded)

    feature_centroids: Tensor
    input_centroids: Tensor
    log_q: Tensor
    seeded: Tensor
    feature_sum: Tensor
    input_sum: Tensor
    label_joint: Tensor
    input_joint: Tensor
    totals: Tensor
    pending: Tensor

    def forward(self, features: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        """IBB of a batch: a float32 scalar whose gradient goes to the features alone.

        In training mode the batch is also collected; what that changes waits for `sync`.

        features: [n, D], pooled, before the classifier. labels: [n] integers.
        inputs: images [n, 3, height, width].
        """
        with torch.autocast(features.device.type, enabled=False), _exact_products():
            u = _unit(features)
            # a copy: `sync` may move the centroids before backward needs where they were
            phi = soft_assignment(u, self.feature_centroids.clone(), self.beta)
            with torch.no_grad():
                v = _pixels(inputs)
                phi_input = soft_assignment(v, self.input_centroids, self.beta)
            bound = ib_bound(phi_input, phi, self.log_q, labels)
            if self.training:
                self._collect(u.detach(), v, phi.detach(), phi_input, labels, bound.detach())
            return bound

    def _collect(
        self, u: Tensor, v: Tensor, phi: Tensor, phi_input: Tensor, labels: Tensor, bound: Tensor
    ) -> None:
        """Add a micro-batch to the pending sums: unit features u and inputs v with their phi."""
        sums = self._sums()
        # before the first seeds, centroids are placeholders: nothing belongs to them
        known = self.seeded.any().float()
        for kind, x in (("feature", u), ("input", v)):
            likeness = x @ getattr(self, f"{kind}_centroids").T
            nearest = likeness.masked_fill(~self.seeded, -torch.inf).argmax(-1)
            sums[f"{kind}_sum"].index_add_(0, nearest, known * x)
            if not self._all_seeded:
                sums[f"{kind}_seed"].index_add_(0, labels, x)
        sums["label_joint"].index_add_(0, labels, known * phi)
        sums["input_joint"].addmm_(phi_input.T, known * phi)
        entropy = torch.special.entr(phi).sum(-1).mean()
        sums["totals"] += len(u) * torch.stack([torch.ones_like(bound), bound, entropy])
        if not self._all_seeded:
            # not bincount, which waits for the largest label
            sums["label_count"].index_add_(0, labels, torch.ones_like(u[:, 0]))

    def share(self) -> None:
        """Start the all-reduce of what was collected, which overlaps with backward.

        Collective. Nothing more may be collected until `sync`.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._sharing = torch.distributed.all_reduce(self._to_share(), async_op=True)

    @torch.no_grad()
    def sync(self) -> None:
        """Fold in what was collected, on all ranks: one all-reduce when they are several."""
        if self._sharing is None:
            self.share()
        if self._sharing is not None:
            self._sharing.wait()
            self._sharing = None
        pending, sums = self._to_share(), self._sums()
        decay = torch.exp(-sums["totals"][0] / self.window)
        for name in self._averages:
            getattr(self, name).mul_(decay).add_(sums[name])
        self._move_centroids()
        self._revive()
        if not self._all_seeded:
            self._seed(sums)
        counts = self.label_joint.sum(1, keepdim=True)
        prior = self.smoothing / self.clusters
        self.log_q.copy_(((self.label_joint + prior) / (counts + self.smoothing)).log())
        pending.zero_()

    def summary(self) -> dict[str, float]:
        """The state in numbers, in nats, over about the last `window` samples.

        mi_input: I(F; X). mi_label: I(F; Y). loss: their difference, the bottleneck. bound: IBB.
        perplexity: e^H of the assignments of features; near `clusters`, beta is too small.
        """
        samples, bound, entropy = self.totals.tolist()
        mi_input = mutual_information(self.input_joint).item()
        mi_label = mutual_information(self.label_joint).item()
        return {
            "mi_input": mi_input,
            "mi_label": mi_label,
            "loss": mi_input - mi_label,
            "bound": bound / max(samples, 1.0),
            "perplexity": math.exp(entropy / max(samples, 1.0)),
        }

    def _to_share(self) -> Tensor:
        """The pending sums that are in use: those for seeds are not once all have been found."""
        return self.pending[: self._length] if self._all_seeded else self.pending

    def _sums(self) -> dict[str, Tensor]:
        """The flat buffer of pending sums by name; the part for averages comes first."""
        shapes = {**self._averages, **self._seeds}
        parts = self.pending.split([math.prod(shape) for shape in shapes.values()])
        return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    def _move_centroids(self) -> None:
        """Every centroid to the mean direction of its own; one without samples stays."""
        for kind in ("feature", "input"):
            total, centroids = getattr(self, f"{kind}_sum"), getattr(self, f"{kind}_centroids")
            norm = total.norm(dim=1, keepdim=True)
            centroids.copy_(torch.where(norm > _EPS, total / norm.clamp_min(_EPS), centroids))

    def _revive(self) -> None:
        """Of each kind the emptiest cluster starts anew beside the fullest, with half of what that
        one has, if it has lost its own: at most one a step. No wait for the device.
        """
        samples = self.totals[0]
        # K is the last dimension of what the averages of a kind are
        of = {"feature": (self.label_joint, self.input_joint), "input": (self.input_joint.T,)}
        for kind, tables in of.items():
            total, centroids = getattr(self, f"{kind}_sum"), getattr(self, f"{kind}_centroids")
            size = total.norm(dim=1)
            most, full = size.max(0)
            least, empty = size.masked_fill(~self.seeded, torch.inf).min(0)
            lost = least < _EMPTY * samples / self.clusters
            due = lost & (samples > self.window / 2) & (empty != full)
            pair = torch.stack([full, empty])
            sums, places = total.index_select(0, pair), centroids.index_select(0, pair)
            beside = F.normalize(places[0] + _APART * places[1], dim=0)
            split = torch.stack([sums[0] / 2, beside * most / 2])
            total.index_copy_(0, pair, torch.where(due, split, sums))
            moved = torch.stack([places[0], beside])
            centroids.index_copy_(0, pair, torch.where(due, moved, places))
            for table in tables:
                both = table.index_select(1, pair)
                shared = both.mean(1, keepdim=True).expand_as(both)
                table.index_copy_(1, pair, torch.where(due, shared, both))

    def _seed(self, sums: dict[str, Tensor]) -> None:
        """Start clusters at the mean of a class: cluster a at that of class a mod C."""
        of = torch.arange(self.clusters, device=self.seeded.device) % self.num_classes
        new = (sums["label_count"][of] > 0) & ~self.seeded
        again = torch.arange(self.clusters, device=of.device) >= self.num_classes
        for kind in ("feature", "input"):
            centroids = getattr(self, f"{kind}_centroids")
            mean = F.normalize(sums[f"{kind}_seed"][of], dim=1)
            # placeholders are random directions: they separate clusters of one class
            mean = F.normalize(mean + _APART * again[:, None] * centroids, dim=1)
            centroids.copy_(torch.where(new[:, None], mean, centroids))
        self.seeded |= new

    def note_seeded(self) -> None:
        """Once all seeds are found, look for none: less to share, and the same values.

        Waits for the device, which is why `sync` does not do it. All ranks call it at the same
        step.
        """
        self._all_seeded = self._all_seeded or bool(self.seeded.all())

    def _loaded(self, *_: object) -> None:
        self._all_seeded = False
        self.note_seeded()


@contextmanager
def _exact_products() -> Iterator[None]:
    """In the block products of float32 matrices are no less exact than that.

    TF32, which training may have chosen, would move the logits of phi by a percent.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)


def _pixels(images: Tensor) -> Tensor:
    """Images [n, 3, height, width] -> unit vectors [n, 3072]."""
    height, width = images.shape[-2:]
    rows, columns = height // _INPUT_SIDE, width // _INPUT_SIDE
    if (height, width) == (rows * _INPUT_SIDE, columns * _INPUT_SIDE):
        # sums of tiles, three times faster on CPU than pooling; the unit vector is that of means
        tiles = images.float().unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))
        images = tiles.sum(-3).sum(-1)
    else:
        images = F.adaptive_avg_pool2d(images.float(), _INPUT_SIDE)
    return _unit(images.flatten(1))
