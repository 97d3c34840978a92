"""Draw the figures of docs/method.md: `python docs/figures/make.py`.

block.svg is drawn from the cost of the blocks of ViT-S; heatmap.png from a small net that trains
for a minute on handwritten digits.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torchvision.io import write_png
from torchvision.utils import make_grid

import ltm

HERE = Path(__file__).parent
STEPS, BATCH, RATE = 400, 32, 2e-3


def box(x: int, y: int, width: int, label: str, note: str = "", fill: str = "#eef2f7") -> str:
    """A rectangle with a label, and a note below it."""
    middle = x + width // 2
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="44" rx="6" fill="{fill}" stroke="#445"/>'
        f'<text x="{middle}" y="{y + 27}" class="label">{label}</text>'
        f'<text x="{middle}" y="{y + 62}" class="note">{note}</text>'
    )


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<path d="M{x1} {y1} L{x2} {y2}" stroke="#445" marker-end="url(#head)" fill="none"/>'


def block() -> str:
    """One LTM block of ViT-S, with what its parts cost."""
    model = ltm.create_model("vit_small_patch16_224")
    cost = ltm.count(model).blocks
    first = cost["blocks.0"].gmacs
    attention = cost["blocks.0.attn"].gmacs
    mlp = cost["blocks.0.mlp"].gmacs
    mask = cost["method"].gmacs
    site = model.sites["blocks.0"]
    share = f"{mask:.4f} GMACs: {100 * mask / first:.1f} %"
    shape = f"{site.tokens} tokens", f"{site.slots} tokens"
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 230" font-family="sans-serif">',
        "<style>.label{text-anchor:middle;font-size:15px}.note{text-anchor:middle;font-size:12px;"
        'fill:#556}</style><defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" '
        'refY="4" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#445"/></marker></defs>',
        '<rect width="800" height="230" fill="white"/>',
        f'<text x="45" y="146" class="note">X</text><text x="45" y="162" class="note">{shape[0]}'
        "</text>",
        arrow(60, 122, 108, 122),
        box(110, 100, 130, "attention", f"{attention:.3f} GMACs"),
        arrow(240, 122, 398, 122),
        f'<text x="320" y="114" class="note">Z: {shape[0]}</text>',
        arrow(280, 122, 320, 66),
        box(300, 20, 160, "mask module", share, "#fde9d9"),
        arrow(430, 84, 430, 98),
        '<text x="452" y="96" class="note">G</text>',
        box(400, 100, 100, "merge", "Gᵀ Z", "#fde9d9"),
        arrow(500, 122, 598, 122),
        f'<text x="548" y="114" class="note">{shape[1]}</text>',
        box(600, 100, 100, "MLP", f"{mlp:.3f} GMACs"),
        arrow(700, 122, 760, 122),
        f'<text x="745" y="146" class="note">{shape[1]}</text>',
        '<text x="400" y="210" class="note">One block of ViT-S, ratio 0.8. Residual connections '
        "and norms are not drawn; the class token passes by.</text>",
        "</svg>",
    ]
    return "\n".join(parts)


def heatmaps() -> torch.Tensor:
    """Four digits, each with the sources of one target; the net keeps a quarter of its tokens."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    images = F.interpolate(images, (32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)
    model = ltm.create_model("vit_nano_patch4_32", compression_ratio=0.25, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.99))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        batch = torch.randint(100, len(labels), (BATCH,))
        loss = F.cross_entropy(model(images[batch] * 2 - 1), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures = []
    for image in images[:4]:
        # the darkest stroke of the left half
        stroke = F.avg_pool2d(image[:1], 4)[0][:, :4].argmax()
        heat = ltm.heatmap(model, image * 2 - 1, divmod(int(stroke), 4))
        large = F.interpolate(image[None], scale_factor=5, mode="nearest")[0]
        pictures += [(large * 255).to(torch.uint8), heat.picture(large)]
    return make_grid(pictures, nrow=8, padding=6, pad_value=255)


def main() -> None:
    torch.set_num_threads(1)
    (HERE / "block.svg").write_text(block())
    write_png(heatmaps(), str(HERE / "heatmap.png"))


if __name__ == "__main__":
    main()
