"""Proportional attention: softmax(q k / sqrt(d) + log(size of key)) v, with a mask or without one.

ToMe, arXiv 2210.09461, section 3. With a mask, the fast kernels of GPUs cannot be used. Without one
the log sizes ride in channels that are appended to queries (1) and keys (log(size) sqrt(d)), so
that the scaled product has them already. That costs the channels: `channels_appended` of them in
both products of attention, 12.5 % of these at d = 64. `ltm.count` leaves them out: they are a way
to compute, not a part of the network.

Legend: B images, H heads, T tokens, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF = (torch.bfloat16, torch.float16)
_MULTIPLE = 8  # what the fast kernels want the width of a head to be a multiple of


def appending_is_faster(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to append channels, for attention that is computed in `dtype`.

    On a CPU the fused kernel takes a mask for less (1.2 times at the shapes of ViT-S); a GPU has a
    kernel that takes none in half precision alone. The meta device is where costs are counted.
    """
    return device.type == "cuda" and dtype in _HALF


def channels_appended(width: int, dtype: torch.dtype) -> int:
    """How many channels a head of this width gets, all but one or two of them zeros."""
    wanted = width + (2 if dtype in _HALF else 1)
    return -(-wanted // _MULTIPLE) * _MULTIPLE - width


def proportional_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_sizes: Tensor,
    *,
    scale: float,
    dropout_p: float = 0.0,
    appended: bool | None = None,
) -> Tensor:
    """Queries, keys and values [B, H, T, d], log_sizes [B, T] of the keys -> [B, H, T, d].

    appended: log sizes ride in channels, or are a mask; None chooses what is faster.
    """
    dtype = _computed_in(q)
    if appended is None:
        appended = appending_is_faster(q.device, dtype)
    if not appended or q.device.type == "meta":
        mask = log_sizes[:, None, None].to(q.dtype)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale
        )
    width = q.shape[-1]
    more = channels_appended(width, dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    columns = _columns(log_sizes / scale, more, dtype)
    k = torch.cat([k, columns[:, None].expand(-1, k.shape[1], -1, -1)], -1)
    q, v = F.pad(q, (0, more), value=1.0), F.pad(v, (0, more))
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)
    return y[..., :width]


def _columns(values: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """values [B, T], as they are added up over channels in that precision: [B, T, channels]."""
    high = values.to(dtype)
    parts = [high]
    if dtype in _HALF:
        # the rest of what half precision cuts off; of an empty slot, -inf, there is none
        parts.append((values - high).nan_to_num(nan=0.0).to(dtype))
    return F.pad(torch.stack(parts, -1), (0, channels - len(parts)))


def _computed_in(q: Tensor) -> torch.dtype:
    """The precision of attention: autocast would lower that of the appended channels, too."""
    kind = q.device.type
    if kind != "meta" and q.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return q.dtype
