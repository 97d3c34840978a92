"""`ltm-platform analyse` of eight methods that one base network was fine-tuned with.

    python benchmarks/analysis.py --out analysis
    python benchmarks/analysis.py --data drawings --methods ltm tome topk --out analysis

A plain ViT of 64 tokens learns the images without reducing any; each method starts from its
weights, at the plan that costs the same part of its MACs, and is fine-tuned. Every run is one of
`ltm_platform.api` in a home of its own, which goes in the end; the page of pictures and the tables
stay in a folder of `--out` for each set of images. Printed is top-1 of each.

digits: the 1,797 scans of scikit-learn. drawings: shapes of six kinds, of any place, angle and
bright colour, on a background of dark soft noise: most of an image says nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

import ltm
from benchmarks.study.own_ray import own_ray
from ltm_platform import api
from ltm_platform.job import JobSpec

BACKBONE, SIDE = "vit_nano_patch4_32", 32
DATA = ("digits", "drawings")
METHODS = ("ltm", "tome", "mctf", "dpcknn", "sit", "evit", "topk", "random")
LARGE = 4  # times the side: shapes are drawn so large, which smooths their edges
SHAPES: dict[str, list[tuple[float, float]] | None] = {
    "circle": None,
    "triangle": [(0.0, -1.0), (0.87, 0.5), (-0.87, 0.5)],
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "bar": [(-1.0, -0.3), (1.0, -0.3), (1.0, 0.3), (-1.0, 0.3)],
    "cross": [
        *((-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3)),
        *((0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3), (-1.0, 0.3), (-1.0, -0.3), (-0.3, -0.3)),
    ],
    "arrow": [
        *((0.0, -1.0), (0.8, 0.0), (0.3, 0.0), (0.3, 1.0)),
        *((-0.3, 1.0), (-0.3, 0.0), (-0.8, 0.0)),
    ],
}


def drawing(shape: str, random: np.random.Generator) -> Image.Image:
    """One shape on soft noise."""
    noise = random.integers(96, size=(6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((LARGE * SIDE, LARGE * SIDE), Image.Resampling.BICUBIC)
    radius = random.uniform(0.25, 0.4) * LARGE * SIDE
    centre = random.uniform(radius, LARGE * SIDE - radius, 2)
    colour = tuple(random.integers(128, 256, size=3).tolist())
    draw, corners = ImageDraw.Draw(image), SHAPES[shape]
    if corners is None:
        draw.circle(tuple(centre), radius, colour)
    else:
        angle = random.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        draw.polygon([tuple(radius * turn @ corner + centre) for corner in corners], colour)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def draw_all(folder: Path, images: int) -> None:
    """A folder of drawings, as many of each shape."""
    random = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(images // len(SHAPES)):
            drawing(shape, random).save(folder / shape / f"{number}.png")


def job(data: str, method: dict[str, Any], epochs: int) -> JobSpec:
    recipe = {"epochs": epochs, "global_batch": 32, "lr": 1e-3, "augment": {"hflip": 0.0}}
    if method["method"] != "ltm":
        recipe["ib"] = {"weight": 0}
    return JobSpec.from_dict(
        {
            "model": {"backbone": BACKBONE, "image_size": SIDE, **method},
            "data": {"path": data, "val_fraction": 0.2, "loader_workers": 0},
            "recipe": recipe,
            "cluster": {"workers": 1},
        }
    )


def analyse(data: str, home: Path, args: argparse.Namespace) -> None:
    """Trains the base and then each method from it, on one set of images."""
    path = data
    if data == "drawings":
        path = str(home / "drawings")
        draw_all(Path(path), args.drawings)
    budget = args.part * ltm.count(ltm.create_model(BACKBONE, "none", image_size=SIDE)).gmacs

    def run(name: str, method: dict[str, Any], epochs: int) -> api.RunResult:
        result = api.submit(job(path, method, epochs), name=f"{data}-{name}")
        print(f"{data:<10}{name:<12}{result.metrics['val/top1']:>8.2f}", flush=True)
        return result

    base = run("base", {"method": "none"}, args.epochs).best.location
    of_base = {"checkpoint": base, "target_gmacs": budget}
    tuned = [run(name, {"method": name, **of_base}, args.finetune).name for name in args.methods]
    api.analyse(tuned, images=args.images, out=args.out / data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--methods", nargs="+", choices=ltm.list_methods(), default=METHODS)
    parser.add_argument("--part", type=float, default=0.7, help="of the base's MACs")
    parser.add_argument("--epochs", type=int, default=14, help="of the base")
    parser.add_argument("--finetune", type=int, default=2, help="epochs of each method")
    parser.add_argument("--drawings", type=int, default=1800, help="images that are drawn")
    parser.add_argument("--images", type=int, default=64, help="images that are analysed")
    parser.add_argument("--out", type=Path, default=Path("analysis"))
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ltm-analysis-") as folder,
        own_ray(Path(folder)),
    ):
        for data in args.data:
            analyse(data, Path(folder), args)
    print(f"pages in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
