"""Images a second of our loader beside timm's own, on the same JPEGs and transforms.

    python benchmarks/loader.py
    python benchmarks/loader.py --augment published      # RandAugment and random erasing too
    python benchmarks/loader.py --only memory            # ImageNet-size index
    python benchmarks/loader.py --only training          # the loader's share of a step
    python benchmarks/loader.py --only stages            # where an image's time goes

The photographs are crops, flips and gradings of scikit-learn's two, 500 x 400 pixels, as JPEG.
timm reads them with ImageDataset and create_loader, with and without its prefetcher; ours reads
the folder and its shards. Short epochs are interleaved so that all see the same machine, and
ratios are taken within a round; medians are printed. "CPU ms" is what an image costs in all
processes together, which does not depend on what else the machine does. Files are in the page
cache for all of them. Both are measured up to the normalised float batch: what a GPU would do is
done on the CPU.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import psutil
import timm
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from timm.data import ImageDataset, create_loader

from ltm_platform.compat.timm import allow_posterize_to_black
from ltm_platform.data import open_dataset
from ltm_platform.data.loader import Loader
from ltm_platform.data.pixels import fast, train_pipeline
from ltm_platform.data.pixels.fast import FastTraining
from ltm_platform.data.pixels.jpeg import Jpeg
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.sources.folder import FolderImages
from ltm_platform.data.sources.shards import Record, ShardImages, write_shards
from ltm_platform.data.transforms import Augmentation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ltm_platform.data.image_set import ImageSet
    from ltm_platform.data.pixels.sample import Pipeline

SIZE = 224
IMAGENET_IMAGES_A_GROUP = 9  # 110 KB each in groups of 1 MiB
MEAN, STD = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
AUGMENTS = {
    "crop": Augmentation(),
    "published": Augmentation(auto_augment="rand-m9-mstd0.5", random_erasing=0.2),
}


def write_photographs(root: Path, count: int) -> None:
    """``count`` JPEGs of 500 x 400 pixels in ten classes."""
    draw = np.random.default_rng(0)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        photo = originals[number % len(originals)]
        left, top = draw.integers(photo.width - 500), draw.integers(photo.height - 400)
        photo = photo.crop((left, top, left + 500, top + 400))
        if draw.random() < 0.5:
            photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        photo = ImageEnhance.Brightness(photo).enhance(draw.uniform(0.8, 1.2))
        path = root / f"class{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=92)


def ours(source: ImageSet, augment: Augmentation, args: argparse.Namespace) -> Loader:
    pipeline = train_pipeline(augment, SIZE, MEAN, args.decode)
    return _loader(source, pipeline, args.batch, args.workers)


def _loader(source: ImageSet, pipeline: Pipeline, batch: int, workers: int) -> Loader:
    return Loader(
        source,
        pipeline,
        micro_batch=batch,
        accumulation=1,
        rank=0,
        world_size=1,
        seed=0,
        workers=workers,
    )


def timms(
    root: Path, augment: Augmentation, args: argparse.Namespace, *, prefetcher: bool
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    dataset = ImageDataset(str(root))
    loader = create_loader(
        dataset,
        (3, SIZE, SIZE),
        args.batch,
        is_training=True,
        scale=augment.crop_scale,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.auto_augment,
        re_prob=augment.random_erasing,
        re_mode="pixel",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        num_workers=args.workers,
        use_prefetcher=prefetcher,
        device=torch.device("cpu"),
    )
    for step in dataset.transform.transforms:
        allow_posterize_to_black(step)
    return loader


def network_batches(loader: Loader, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Float batches in one place in memory, as training on a CPU has them."""
    to_network, floats = ToNetwork(MEAN, STD), None
    for batch in loader.epoch(epoch):
        floats = to_network(batch.images, batch.changes, floats)
        yield floats, batch.labels


def images_per_second(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[float, float]:
    """Images a second, and milliseconds of CPU an image over all processes."""
    cpu, start, images = cpu_seconds(), time.perf_counter(), 0
    for pixels, _ in batches:
        assert pixels.dtype == torch.float32
        images += len(pixels)
    seconds = time.perf_counter() - start
    return images / seconds, (cpu_seconds() - cpu) / images * 1000


def cpu_seconds() -> float:
    """Of this process and all below it."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def compare(root: Path, args: argparse.Namespace) -> None:
    """Print images/s of the four ways to read."""
    augment = AUGMENTS[args.augment]
    folder = open_dataset(str(root), cache=root, val_fraction=0.001).train
    with ExitStack() as stack:
        readers: dict[str, Callable[[int], Iterable[tuple[torch.Tensor, torch.Tensor]]]] = {}
        for name, prefetcher in (("timm", True), ("timm, no prefetcher", False)):
            theirs = timms(root, augment, args, prefetcher=prefetcher)
            readers[name] = lambda _, theirs=theirs: theirs
        for name, source in (("ours, folder", folder), ("ours, shards", shards(folder, root))):
            loader = stack.enter_context(closing(ours(source, augment, args)))
            readers[name] = partial(network_batches, loader)
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
        for round_ in range(args.rounds + 1):
            for name, epoch in readers.items():
                measured = images_per_second(epoch(round_))
                if round_:  # the first starts the processes
                    seen[name].append(measured)
    print(f"{'loader':<22}{'images/s':>9}{'of timm':>9}{'CPU ms':>8}{'of timm':>9}")
    base = np.array(seen["timm"])
    for name, rows in seen.items():
        measured = np.array(rows)
        rate, cpu = np.median(measured, axis=0)
        ratio, cpu_ratio = np.median(measured / base, axis=0)
        print(f"{name:<22}{rate:>9.0f}{ratio:>9.2f}{cpu:>8.2f}{1 / cpu_ratio:>9.2f}")


def shards(folder: ImageSet, root: Path) -> ShardImages:
    """The images of ``folder`` as our shards."""
    records = (
        Record(data, label, str(index))
        for index, (data, label) in enumerate(folder.read(range(len(folder))))
    )
    return ShardImages(write_shards(root.parent / "shards", "train", records, folder.classes))


def share_of_training(root: Path, args: argparse.Namespace) -> None:
    """Print how much of a training step the training process waits for its batch."""
    source = open_dataset(str(root), cache=root, val_fraction=0.001).train
    model = timm.create_model(args.model, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters())
    waited = whole = 0.0
    with closing(ours(source, AUGMENTS[args.augment], args)) as loader:
        batches = chain.from_iterable(network_batches(loader, epoch) for epoch in count())
        next(batches)  # starts the processes
        for _ in range(args.steps):
            start = time.perf_counter()
            images, labels = next(batches)
            waited += time.perf_counter() - start
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            whole += time.perf_counter() - start
    print(
        f"{args.model}, batch {args.batch}, {torch.get_num_threads()} threads: "
        f"a step takes {whole / args.steps:.2f} s, {100 * waited / whole:.2f} % of it waiting"
    )


def stages(root: Path, args: argparse.Namespace) -> None:
    """Print what an image costs at each stage, in one process."""
    source = open_dataset(str(root), cache=root, val_fraction=0.001).train
    pipeline = FastTraining(AUGMENTS[args.augment], SIZE, MEAN)
    to_network, floats, batch = ToNetwork(MEAN, STD), None, args.batch
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        for owner, name, stage in (
            (source, "read", "read"),
            (Jpeg, "crop", "decode"),
            (fast, "resize_bicubic", "resize"),
            (pipeline, "_augment", "augment"),
        ):
            timed = _timed(getattr(owner, name), seconds, stage)
            stack.enter_context(mock.patch.object(owner, name, timed))
        loader = stack.enter_context(closing(_loader(source, pipeline, batch, workers=0)))
        for epoch in range(args.rounds + 1):
            if epoch == 1:  # the first warms up
                seconds.clear()
            start = time.process_time()
            for images, _, changes in loader.epoch(epoch):
                floats = _timed(to_network, seconds, "flip, normalise, erase")(
                    images, changes, floats
                )
                seconds["images"] = seconds.get("images", 0) + len(images)
            seconds["all"] = seconds.get("all", 0) + time.process_time() - start
    images, whole = seconds.pop("images"), seconds.pop("all")
    seconds["the rest"] = whole - sum(seconds.values())
    for stage, taken in seconds.items():
        print(f"{stage:<24}{1000 * taken / images:>7.3f} ms{taken / whole:>7.1%}")
    print(f"{'an image':<24}{1000 * whole / images:>7.3f} ms")


def _timed(work: Callable[..., Any], seconds: dict[str, float], stage: str) -> Callable[..., Any]:
    def timed(*args: Any, **more: Any) -> Any:
        start = time.process_time()
        try:
            return work(*args, **more)
        finally:
            seconds[stage] = seconds.get(stage, 0) + time.process_time() - start

    return timed


def memory(root: Path, args: argparse.Namespace) -> None:
    """Print what a decode process holds with an index of ImageNet's size."""
    folder = open_dataset(str(root), cache=root, val_fraction=0.001).train
    assert isinstance(folder, FolderImages)
    images = np.arange(args.index) % len(folder)
    paths = [f"./././././././././././{folder.locate(i).split(chr(39))[1]}" for i in images]
    labels = np.arange(args.index) % 10
    huge = FolderImages(folder.root, paths, labels, folder.classes)
    dots = root.parent / "dots"
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "JPEG")
    records = (Record(buffer.getvalue(), 0, f"{n:024d}") for n in range(args.index))
    write_shards(
        *(dots, "train", records, ["dot"]),
        shard_bytes=len(buffer.getvalue()) * 600,  # as many shards as ImageNet has
        group_rows=IMAGENET_IMAGES_A_GROUP,
    )
    print(f"{'source':<10}{'images':>10}{'resident MiB':>14}{'of it private':>15}{'a batch':>9}")
    for name, source in (
        *(("folder", folder), ("folder", huge)),
        *(("shards", shards(folder, root)), ("shards", ShardImages(dots / "train"))),
    ):
        with closing(ours(source, Augmentation(), args)) as loader:
            batches = loader.epoch(0)
            for _ in range(min(20, loader.steps(1))):
                batch = next(batches).images
            used = [process.memory_full_info() for process in decode_processes()]
        resident, private = (max(getattr(m, k) for m in used) / 2**20 for k in ("rss", "uss"))
        print(
            f"{name:<10}{len(source):>10,}{resident:>14.0f}{private:>15.0f}"
            f"{batch.nbytes / 2**20:>9.0f}",
            flush=True,
        )


def decode_processes() -> list[psutil.Process]:
    """What the fork server has forked, the server itself not counted."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if "forkserver" in " ".join((process.parent() or process).cmdline())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--augment", choices=AUGMENTS, default="crop")
    parser.add_argument("--decode", choices=["fast", "exact"], default="fast")
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--index", type=int, default=1_281_167, help="ImageNet's images")
    parser.add_argument("--only", choices=["speed", "stages", "training", "memory"])
    args = parser.parse_args()
    parts = {"speed": compare, "stages": stages, "training": share_of_training, "memory": memory}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "photographs"
        write_photographs(root, args.images)
        sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
        print(f"{args.images} JPEGs of 500 x 400 pixels, {np.mean(sizes) / 1024:.0f} KiB each")
        for name in [args.only] if args.only else parts:
            parts[name](root, args)


if __name__ == "__main__":
    main()
