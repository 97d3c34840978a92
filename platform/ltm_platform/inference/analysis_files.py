"""An analysis of networks as files: a page of pictures, and tables of Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from ltm.views.analysis import FATES
from ltm_platform.inference.analysis import PICTURED
from ltm_platform.storage.files import save_figure, written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import SubFigure

    from ltm_platform.inference.analysis import Analysis, Network

PAGE, TOKENS, PAIRS = "analysis.png", "tokens.parquet", "pairs.parquet"
_LIKENESSES = {
    "iou": "kept tokens: intersection over union",
    "nmi": "groups: normalised mutual information",
    "cka": "features: linear CKA",
}
_CELL = 1.7  # inches, of a picture
_MATRIX = 4.2  # inches
_LONGEST_NAME = 22


def write(analysis: Analysis, folder: Path) -> list[Path]:
    """The page and the tables of an analysis, each written whole; their paths."""
    paths = [folder / name for name in (PAGE, TOKENS, PAIRS)]
    page, tokens, pairs = paths
    with written_whole(page) as part:
        save_figure(figure(analysis), part, dpi=110)
    for path, table in ((tokens, token_table(analysis)), (pairs, pair_table(analysis))):
        with written_whole(path) as part:
            pq.write_table(table, part)
    return paths


def token_table(analysis: Analysis) -> pa.Table:
    """A row for each token of each image in each network that reduces tokens.

    slot: the group that it was merged in, -1 of one that was dropped.
    """
    schema = pa.schema(
        {
            "run": pa.dictionary(pa.int32(), pa.string()),
            "method": pa.dictionary(pa.int32(), pa.string()),
            "image": pa.int32(),
            "row": pa.int16(),
            "column": pa.int16(),
            "depth": pa.float32(),
            "fate": pa.dictionary(pa.int32(), pa.string()),
            "slot": pa.int32(),
        }
    )
    tables = [_tokens_of(one, analysis.images, schema) for one in analysis.networks if one.tokens]
    return pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()


def _tokens_of(network: Network, images: Sequence[int], schema: pa.Schema) -> pa.Table:
    assert network.tokens
    depth = network.tokens.depth.numpy()
    image, row, column = (index.ravel() for index in np.indices(depth.shape))
    columns = {
        "image": np.asarray(images)[image],
        "row": row,
        "column": column,
        "depth": depth.ravel(),
        "slot": network.tokens.groups.numpy().ravel(),
    }
    arrays = {
        name: pa.array(values).cast(schema.field(name).type) for name, values in columns.items()
    }
    fate = pa.array(network.tokens.fates.numpy().ravel().astype(np.int32))
    arrays["fate"] = pa.DictionaryArray.from_arrays(fate, list(FATES))
    zeros = pa.array(np.zeros(depth.size, np.int32))
    for name, value in (("run", network.name), ("method", network.method)):
        arrays[name] = pa.DictionaryArray.from_arrays(zeros, [value])
    return pa.table({name: arrays[name] for name in schema.names}, schema=schema)


def pair_table(analysis: Analysis) -> pa.Table:
    """A row for each pair of networks; null where a measure says nothing."""
    schema = pa.schema(
        {"run": pa.string(), "other": pa.string()}
        | dict.fromkeys(_LIKENESSES, pa.float64())
        | {"images": pa.int32()}
    )
    rows = [
        {name: getattr(one, name) for name in ("run", "other", *_LIKENESSES)}
        | {"images": len(analysis.images)}
        for one in analysis.likenesses
    ]
    return pa.Table.from_pylist(rows, schema)


def figure(analysis: Analysis) -> Figure:
    """Maps of depth, the tokens of some images, and how alike the networks are."""
    networks = analysis.networks
    shown = min(PICTURED, len(analysis.images))
    heights = [1.5 * _CELL, shown * _CELL + 0.4, _MATRIX]
    parts = 3 if analysis.likenesses else 2
    width = max(_CELL * len(networks) + 1, 3 * (_MATRIX if parts == 3 else _CELL))
    page = Figure(figsize=(width, sum(heights[:parts])), layout="constrained")
    rows = page.subfigures(parts, 1, height_ratios=heights[:parts], squeeze=False)[:, 0]
    _depths(rows[0], networks)
    _pictures(rows[1], networks, shown)
    if parts == 3:
        _matrices(rows[2], analysis)
    return page


def _depths(part: SubFigure, networks: Sequence[Network]) -> None:
    part.suptitle("places of the network that a token survives, mean over images", fontsize=9)
    all_axes = part.subplots(1, len(networks), squeeze=False)[0]
    for axes, network in zip(all_axes, networks, strict=True):
        axes.set_axis_off()
        axes.set_title(f"{_short(network.name)}\n{network.method}", fontsize=7)
        if network.tokens is None:
            axes.text(0.5, 0.5, "reduces\nno tokens", ha="center", va="center", fontsize=7)
            continue
        mean = network.tokens.depth.mean(0).numpy()
        drawn = axes.imshow(mean, cmap="viridis", vmin=0, vmax=network.places)
        bar = part.colorbar(drawn, ax=axes, shrink=0.7)
        bar.ax.tick_params(labelsize=6)


def _pictures(part: SubFigure, networks: Sequence[Network], shown: int) -> None:
    part.suptitle("tokens left: merged in one colour, dropped dark", fontsize=9)
    for axes_of_image, image in zip(
        part.subplots(shown, len(networks), squeeze=False), range(shown), strict=True
    ):
        for axes, network in zip(axes_of_image, networks, strict=True):
            axes.imshow(network.pictures[image].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_axis_off()


def _matrices(part: SubFigure, analysis: Analysis) -> None:
    names = [one.name for one in analysis.networks]
    for axes, (measure, title) in zip(part.subplots(1, 3), _LIKENESSES.items(), strict=True):
        values = _matrix(analysis, names, measure)
        axes.imshow(values, cmap="magma", vmin=0, vmax=1)
        axes.set_title(title, fontsize=8)
        short = [_short(name) for name in names]
        axes.set_xticks(range(len(names)), short, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), short, fontsize=6)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "black" if value > 0.6 else "white"
                text = f"{value:.2f}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=6)


def _matrix(analysis: Analysis, names: Sequence[str], measure: str) -> Any:
    values = np.full((len(names), len(names)), np.nan)
    for one in analysis.likenesses:
        value = getattr(one, measure)
        i, j = names.index(one.run), names.index(one.other)
        values[i, j] = values[j, i] = np.nan if value is None else value
    return values


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
