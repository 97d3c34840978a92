"""What can be removed from timm's modules: heads of attention, hidden units, expanded channels.

Legend: K components of a part, D channels of a token, d channels of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.layers import Attention, Mlp
from timm.models.efficientvit_mit import LiteMLA, MBConv
from timm.models.mobilevit import MobileVitBlock
from torch import Tensor, nn

from ltm.errors import FieldError
from ltm.structure.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Mapping

ByComponent = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """A module of a network, made of K components that can be removed one by one.

    name: timm's name of the module. rows: how many rows of its input are of one image. heads:
    components are heads, a few large ones. gate_at: where in the module a gate goes, in the place
    of timm's identity: what reads the output begins there.
    """

    name: str
    module: Any
    rows: int = 1
    heads: ClassVar[bool] = False
    gate_at: ClassVar[str] = "norm"

    @property
    @abstractmethod
    def size(self) -> int:
        """K, at present."""

    @abstractmethod
    def size_in(self, state: Mapping[str, Tensor]) -> int:
        """K of a network with that state dict. KeyError when it has no such module."""

    @abstractmethod
    def magnitude(self) -> Tensor:
        """[K]: the L1 norm of the weights of every component."""

    @abstractmethod
    def own_weights(self) -> list[tuple[nn.Parameter, ByComponent]]:
        """The weights that S2ViTE sets to 0 for a component that is not there, each with a view.

        The view is of the weight or of a tensor of its shape: [K, ...], in the same memory.
        """

    @abstractmethod
    def keep(self, index: Tensor) -> None:
        """Keep the components of a [k] long tensor, in this order, and remove all others."""

    @abstractmethod
    def _new_gate(self) -> Gate: ...

    @property
    def scored(self) -> nn.Module:
        """The module before which SAViT has a gate: its input is multiplied."""
        return self.module.get_submodule(self.gate_at)

    @property
    def gate(self) -> Gate | None:
        gate = self.module.get_submodule(self.gate_at)
        return gate if isinstance(gate, Gate) else None

    def add_gate(self) -> None:
        """Open for all components."""
        device = next(self.module.parameters()).device
        self.module.set_submodule(self.gate_at, self._new_gate().to(device))

    def drop_gate(self) -> None:
        self.module.set_submodule(self.gate_at, nn.Identity())

    def gate_keys(self) -> set[str]:
        """Keys of the state dict that are a gate's, where there is one."""
        return {f"{self.name}.{self.gate_at}.kept"}


class Heads(Part):
    """Heads of softmax attention: their queries, keys, values and columns of the projection."""

    module: Attention
    heads = True

    @property
    def size(self) -> int:
        return int(self.module.num_heads)

    def size_in(self, state: Mapping[str, Tensor]) -> int:
        return len(state[f"{self.name}.qkv.weight"]) // (3 * self.module.head_dim)

    def magnitude(self) -> Tensor:
        qkv, proj = self.module.qkv.weight, self.module.proj.weight
        incoming = qkv.detach().abs().view(3, self.size, -1).sum((0, 2))
        return incoming + proj.detach().abs().view(len(proj), self.size, -1).sum((0, 2))

    def own_weights(self) -> list[tuple[nn.Parameter, ByComponent]]:
        size = self.size
        return [(self.module.qkv.weight, lambda x: x.view(3, size, -1).transpose(0, 1))]

    def keep(self, index: Tensor) -> None:
        attention = self.module
        channels = _channels(index, attention.head_dim)
        third = self.size * attention.head_dim
        cut_rows(attention.qkv, torch.cat([channels + part * third for part in range(3)]))
        cut_columns(attention.proj, channels)
        attention.num_heads = len(index)
        attention.attn_dim = len(channels)

    def _new_gate(self) -> Gate:
        return Gate(self.size, self.module.head_dim, rows=self.rows)


class Units(Part):
    """Hidden units of an MLP."""

    module: Mlp

    @property
    def size(self) -> int:
        return len(self.module.fc1.weight)

    def size_in(self, state: Mapping[str, Tensor]) -> int:
        return len(state[f"{self.name}.fc1.weight"])

    def magnitude(self) -> Tensor:
        fc1, fc2 = self.module.fc1.weight.detach(), self.module.fc2.weight.detach()
        return fc1.abs().sum(1) + fc2.abs().sum(0)

    def own_weights(self) -> list[tuple[nn.Parameter, ByComponent]]:
        return [(self.module.fc1.weight, lambda x: x), (self.module.fc2.weight, Tensor.t)]

    @property
    def scored(self) -> nn.Module:
        return self.module.act

    def keep(self, index: Tensor) -> None:
        cut_rows(self.module.fc1, index)
        cut_columns(self.module.fc2, index)

    def _new_gate(self) -> Gate:
        return Gate(self.size, rows=self.rows)


class Expanded(Part):
    """Channels of an inverted bottleneck, between its expansion and its projection."""

    module: MBConv
    gate_at = "point_conv.dropout"

    @property
    def size(self) -> int:
        return len(self.module.inverted_conv.conv.weight)

    def size_in(self, state: Mapping[str, Tensor]) -> int:
        return len(state[f"{self.name}.inverted_conv.conv.weight"])

    def magnitude(self) -> Tensor:
        block = self.module
        convs = (block.inverted_conv.conv, block.depth_conv.conv)
        incoming = sum(conv.weight.detach().abs().flatten(1).sum(1) for conv in convs)
        return incoming + block.point_conv.conv.weight.detach().abs().sum((0, 2, 3))

    def own_weights(self) -> list[tuple[nn.Parameter, ByComponent]]:
        block = self.module
        outgoing = block.point_conv.conv.weight
        return [(block.inverted_conv.conv.weight, lambda x: x), (outgoing, _by_input)]

    def keep(self, index: Tensor) -> None:
        block = self.module
        for layer in (block.inverted_conv, block.depth_conv):
            cut_rows(layer.conv, index)
            cut_norm(layer.norm, index)
        cut_columns(block.point_conv.conv, index)

    def _new_gate(self) -> Gate:
        return Gate(self.size, dim=1)


class LinearHeads(Part):
    """Heads of EfficientViT's linear attention, each at all its scales."""

    module: LiteMLA
    heads = True
    gate_at = "proj.dropout"

    @property
    def size(self) -> int:
        return len(self.module.qkv.conv.weight) // (3 * self.module.dim)

    @property
    def _scales(self) -> int:
        return 1 + len(self.module.aggreg)

    def size_in(self, state: Mapping[str, Tensor]) -> int:
        return len(state[f"{self.name}.qkv.conv.weight"]) // (3 * self.module.dim)

    def magnitude(self) -> Tensor:
        attention = self.module
        layers = [attention.qkv.conv, *(conv for pair in attention.aggreg for conv in pair)]
        incoming = sum(x.weight.detach().abs().view(self.size, -1).sum(1) for x in layers)
        proj = attention.proj.conv.weight.detach().abs()
        return incoming + proj.view(len(proj), self._scales, self.size, -1).sum((0, 1, 3))

    def own_weights(self) -> list[tuple[nn.Parameter, ByComponent]]:
        size = self.size
        return [(self.module.qkv.conv.weight, lambda x: x.view(size, -1))]

    def keep(self, index: Tensor) -> None:
        attention = self.module
        size = self.size
        rows = _channels(index, 3 * attention.dim)  # q, k and v of a head lie together
        for depthwise, grouped in attention.aggreg:
            cut_rows(depthwise, rows)
            cut_rows(grouped, rows)
            grouped.groups = 3 * len(index)
        cut_rows(attention.qkv.conv, rows)
        columns = _channels(index, attention.dim)
        scales = [columns + scale * size * attention.dim for scale in range(self._scales)]
        cut_columns(attention.proj.conv, torch.cat(scales))

    def _new_gate(self) -> Gate:
        return Gate(self.size, self.module.dim, self._scales, dim=1)


def find_parts(model: nn.Module) -> list[Part]:
    """All parts of a network, in the order of its modules.

    FieldError for a variant whose heads or units cannot be identified.
    """
    found: list[Part] = []
    unfolded, rows = " ", 1  # MobileViT has a row for every position in a patch
    for name, module in model.named_modules():
        kind = type(module)
        if kind is MobileVitBlock:
            unfolded, rows = f"{name}.", module.patch_area
        if kind is Attention:
            if module.gate is not None or not isinstance(module.norm, nn.Identity | Gate):
                raise _inseparable(f"has a norm or gate over all heads in {name}")
            found.append(Heads(name, module, rows if name.startswith(unfolded) else 1))
        elif kind is Mlp:
            if not isinstance(module.norm, nn.Identity | Gate):
                raise _inseparable(f"has a norm over all hidden units in {name}")
            found.append(Units(name, module, rows if name.startswith(unfolded) else 1))
        elif kind is LiteMLA:
            found.append(LinearHeads(name, module))
        elif kind is MBConv:
            found.append(Expanded(name, module))
    return found


def _inseparable(problem: str) -> FieldError:
    return FieldError("backbone", None, "one whose heads and units are separate", problem)


def _by_input(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1)


def _channels(index: Tensor, width: int) -> Tensor:
    """Those of components of `width` channels each."""
    return (index[:, None] * width + torch.arange(width, device=index.device)).flatten()


def cut_rows(layer: Any, index: Tensor) -> None:
    """Keep outputs of a linear or convolutional layer; a depth-wise one keeps its inputs, too."""
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1
    grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
    _replace(layer, "weight", layer.weight[index])
    if layer.bias is not None:
        _replace(layer, "bias", layer.bias[index])
    if isinstance(layer, nn.Linear):
        layer.out_features = len(index)
    else:
        layer.out_channels = len(index)
        if grouped:
            layer.in_channels = len(index)
        if depthwise:
            layer.groups = len(index)


def cut_columns(layer: Any, index: Tensor) -> None:
    """Keep inputs of a linear or convolutional layer."""
    _replace(layer, "weight", layer.weight[:, index])
    if isinstance(layer, nn.Linear):
        layer.in_features = len(index)
    else:
        layer.in_channels = len(index)


def cut_norm(norm: Any, index: Tensor) -> None:
    """Keep channels of a batch norm, or of nothing."""
    if isinstance(norm, nn.Identity):
        return
    for name in ("weight", "bias"):
        _replace(norm, name, getattr(norm, name)[index])
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[index].clone())
    norm.num_features = len(index)


def _replace(module: Any, name: str, values: Tensor) -> None:
    learns = getattr(module, name).requires_grad
    setattr(module, name, nn.Parameter(values.detach().clone(), requires_grad=learns))
