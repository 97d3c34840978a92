"""Trained networks: accuracy, predictions, analysis, and export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.api.output import captured_output
from ltm_platform.api.process import restored_process
from ltm_platform.api.values import Analysed, Curve, Evaluated, Exported, Predicted
from ltm_platform.errors import RunError, UserError
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.forked_workers import RANKS
from ltm_platform.ray_cluster.session import session
from ltm_platform.runs.checkpoint_lookup import find_checkpoint, original_name, run_of
from ltm_platform.storage import locations, permissions
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ltm_platform.api.values import Printed
    from ltm_platform.inference.evaluate import Evaluation, Scores
    from ltm_platform.inference.export import Format
    from ltm_platform.inference.labels import NetworkLabels
    from ltm_platform.job import JobSpec
    from ltm_platform.ray_cluster.resources import Resources
    from ltm_platform.report.pareto import Measurement
    from ltm_platform.tracking import RunRecord

CURVE, CURVE_OF_LAST = "pareto", "pareto_last"
"""Prefix of the metrics, and folder of the artifacts."""
ANALYSIS = "analysis"
"""Folder of the artifacts."""


@restored_process()
def evaluate(
    target: str | Path,
    *,
    ratios: Sequence[float] = (),
    target_gmacs: Sequence[float] = (),
    method: str | None = None,
    last: bool = False,
    data: str | None = None,
    workers: int | None = None,
    tracking_uri: str | None = None,
    printed: Printed | None = None,
) -> Evaluated:
    """Measure top-1 and top-5 on the validation images, on workers of a Ray on this machine.

    Args:
        target: a run's name, or a checkpoint's folder.
        ratios: compression ratios in (0, 1]; the network's own if left out.
        target_gmacs: budgets in 1e9 multiply-accumulates an image; the ratio is measured that comes
            closest from below. They come after the ratios.
        method: put on a network that was trained without one; what comes of it is recorded as
            runs, one a ratio, whose regime in reports is off-the-shelf.
        last: of a run, its last checkpoint instead of its best.
        data: others, as ``data.path``; the run's own if left out.
        workers: processes; one a GPU, or at most two on the CPU, if left out.
        tracking_uri: MLflow's store that has the run; as of `runs`.
        printed: is called with what libraries print; without it, that is in ``evaluate.log``.

    Raises:
        UserError: there is no such run or checkpoint, or the weights do not fit the request.
        RunError: a rank failed.
    """
    from ltm_platform.inference.evaluate import prepare
    from ltm_platform.runs.record_evaluation import record

    checkpoint = find_checkpoint(str(target), last=last, uri=tracking_uri)

    def prepared(resources: Resources) -> Evaluation:
        return prepare(
            checkpoint,
            data=data,
            ratios=ratios,
            workers=workers,
            resources=resources,
            method=method,
            target_gmacs=target_gmacs,
        )

    evaluation, found = _scored(prepared, "evaluate.log", printed)
    store = tracking.tracking_uri(tracking_uri)
    runs: Sequence[str] = ()
    if method is not None:
        run = run_of(checkpoint, store)
        runs = record(evaluation, found.scores, run.name if run else str(checkpoint), store)
    return Evaluated(
        found.scores, checkpoint, evaluation.dataset.name, tuple(runs), store, found.left_out
    )


@restored_process()
def pareto(
    target: str | Path,
    *,
    ratios: Sequence[float] = (),
    points: int = 6,
    last: bool = False,
    data: str | None = None,
    workers: int | None = None,
    picture: Path | None = None,
    tracking_uri: str | None = None,
    printed: Printed | None = None,
) -> Curve:
    """Measure one checkpoint at many compression ratios and log the curve to its run in MLflow.

    Args:
        ratios: in (0, 1]; ``points`` of them, evenly over ``model.elastic`` or from 0.5 to 1, if
            left out.
        picture: a file for a copy of the picture, by its ending PNG, SVG or PDF.

    The others are as of `evaluate`, and so are the errors.
    """
    from ltm_platform.inference.evaluate import prepare
    from ltm_platform.report import pareto as report
    from ltm_platform.report.figures import check_picture, pareto_figure, save
    from ltm_platform.storage.manifest import job_of

    if picture is not None:
        check_picture(picture, "--out")
    checkpoint = find_checkpoint(str(target), last=last, uri=tracking_uri)
    wanted = ratios or report.ratios(job_of(checkpoint).model.elastic, points)

    def prepared(resources: Resources) -> Evaluation:
        return prepare(checkpoint, data=data, ratios=wanted, workers=workers, resources=resources)

    evaluation, found = _scored(prepared, "pareto.log", printed)
    curves = report.curves(found.scores)
    store = tracking.tracking_uri(tracking_uri)
    # On other data it is no property of the run.
    run = run_of(checkpoint, tracking_uri) if data is None else None
    artifacts = None
    if run is not None:
        artifacts = _log(curves, run, store, CURVE_OF_LAST if last else CURVE, checkpoint)
    if picture is not None:
        save(pareto_figure(run.name if run else checkpoint.name, curves), picture)
    name = run.name if run else None
    return Curve(
        curves, checkpoint, evaluation.dataset.name, name, artifacts, store, found.left_out
    )


def _scored(
    prepared: Callable[[Resources], Evaluation], log_name: str, printed: Printed | None
) -> tuple[Evaluation, Scores]:
    from ltm_platform.inference.evaluate import run_evaluation

    with session(EMBEDDED, RANKS) as ray:
        evaluation = prepared(ray.resources)
        permissions.make_folder(locations.home())
        log = locations.home() / log_name
        try:
            with captured_output(log, printed), ray.ray():
                return evaluation, run_evaluation(evaluation, ray_stays=ray.stays)
        except RunError as error:
            error.log = log
            raise


def _log(
    curves: Mapping[str, Sequence[Measurement]],
    record: RunRecord,
    store: str,
    group: str,
    checkpoint: Path,
) -> str:
    """Log the curve of a checkpoint to its run; the name of its metrics and artifacts there."""
    from ltm_platform.report import pareto as report
    from ltm_platform.report.figures import pareto_figure, save

    with temporary_folder("ltm-pareto-") as folder:
        picture, text = folder / "curve.png", folder / "curve.json"
        save(pareto_figure(record.name, curves), picture)
        text.write_text(
            json.dumps({kind: [asdict(one) for one in curve] for kind, curve in curves.items()})
        )
        return tracking.add_curve(
            store,
            record.run_id,
            report.metrics(curves),
            [picture, text],
            group,
            original_name(checkpoint, record),
        )


@restored_process()
def predict(
    target: str | Path,
    images: Sequence[str],
    *,
    top: int = 5,
    heatmaps: Path | None = None,
    token: tuple[int, int] | None = None,
    ema: bool = False,
    ratio: float | None = None,
    last: bool = False,
    tracking_uri: str | None = None,
) -> Predicted:
    """Classify images by the network of a run or of a checkpoint's folder.

    Args:
        images: files.
        top: classes an image.
        heatmaps: a folder, in which is drawn which tokens of an image were merged into one.
        token: its row and column in the grid of patches; the image's centre if left out.
        ema: by the moving average of the weights.
        ratio: a compression ratio in (0, 1]; the run's own if left out.

    The others are as of `evaluate`.

    Raises:
        UserError: there is no such network, or an image cannot be read.
    """
    if token is not None and heatmaps is None:
        raise UserError("--token is given, but without --heatmap FOLDER nothing is drawn")
    checkpoint = find_checkpoint(str(target), last=last, uri=tracking_uri)

    from ltm_platform.data.decode import pixel_rule
    from ltm_platform.inference import predict as inference
    from ltm_platform.inference.trained_network import load_network
    from ltm_platform.storage.manifest import job_of

    pictures = inference.read_images(images, pixel_rule(job_of(checkpoint).data))
    network = load_network(checkpoint, ema=ema, ratio=ratio)
    pixels = inference.to_input(pictures, network.pixels)
    drawn: Sequence[inference.Drawn] = ()
    if heatmaps is not None:
        drawn = inference.draw_heatmaps(network, images, pixels, heatmaps, target=token)
    predictions = inference.predict(network, images, pixels, top=top)
    return Predicted(tuple(predictions), tuple(drawn))


@restored_process()
def labels_of(
    target: str | Path,
    *,
    ema: bool = False,
    ratio: float | None = None,
    last: bool = False,
    tracking_uri: str | None = None,
) -> NetworkLabels:
    """What `ltm_platform.data.importing.import_images` labels images by: a network's decisions.

    Args:
        target: a run, a checkpoint's folder, or a network of timm's with its published weights, as
            ``timm.create_model`` names it.

    The others are as of `predict`.

    Raises:
        UserError: there is no such network.
    """
    from ltm_platform.inference import labels

    if labels.is_of_timm(str(target)):
        return labels.labels_of_timm(str(target))
    checkpoint = find_checkpoint(str(target), last=last, uri=tracking_uri)

    from ltm_platform.inference.trained_network import load_network

    return labels.labels_of_run(load_network(checkpoint, ema=ema, ratio=ratio))


@restored_process()
def analyse(
    targets: Sequence[str | Path],
    *,
    images: int = 64,
    ema: bool = False,
    ratio: float | None = None,
    last: bool = False,
    data: str | None = None,
    out: Path | None = None,
    tracking_uri: str | None = None,
) -> Analysed:
    """What networks do with the tokens of the same images, and how alike they are in that.

    A page of pictures and tables of Parquet are logged to the run of each in MLflow, in the
    artifact folder ``analysis``, in the place of an earlier analysis.

    Args:
        targets: names of runs, or checkpoints' folders.
        images: so many, the first of the validation set.
        data: others, as ``data.path``; then nothing is logged. The runs' own if left out.
        out: a folder for a copy of the page and the tables.

    The others are as of `predict`.

    Raises:
        UserError: there is no such network, the networks were trained on different data, or there
            are too few images.
    """
    from ltm_platform.checks import check_data
    from ltm_platform.inference import analysis as inference
    from ltm_platform.inference import analysis_files
    from ltm_platform.inference.trained_network import load_network
    from ltm_platform.storage.manifest import job_of

    if images < inference.FEWEST:
        raise UserError(f"--images is {images}, but must be {inference.FEWEST} or more")
    names = list(dict.fromkeys(map(str, targets)))
    if not names:
        raise UserError("name a run, or a checkpoint's folder")
    checkpoints = {name: find_checkpoint(name, last=last, uri=tracking_uri) for name in names}
    jobs = {name: job_of(checkpoint) for name, checkpoint in checkpoints.items()}
    first = jobs[names[0]]
    if data is None:
        _check_same_images(jobs)
    else:
        first = first.replace("data.path", data)
    dataset = check_data(first)
    networks = {
        # a network without a method has one ratio
        name: load_network(
            checkpoint, ema=ema, ratio=None if jobs[name].model.method == "none" else ratio
        )
        for name, checkpoint in checkpoints.items()
    }
    found = inference.analyse(networks, dataset.val, images)
    store = tracking.tracking_uri(tracking_uri)
    # on other data it is no property of the runs
    logged = checkpoints.values() if data is None else ()
    records = [run_of(checkpoint, store) for checkpoint in logged]
    runs = {record.name: record.run_id for record in records if record}
    with temporary_folder("ltm-analysis-") as temporary:
        folder = out or temporary
        folder.mkdir(parents=True, exist_ok=True)
        files = analysis_files.write(found, folder)
        for run_id in runs.values():
            tracking.add_files(store, run_id, files, ANALYSIS)
    return Analysed(found, dataset.name, tuple(runs), ANALYSIS, store, tuple(files) if out else ())


def _check_same_images(jobs: Mapping[str, JobSpec]) -> None:
    """Raises: UserError: jobs whose validation images are not the same."""
    (name, first), *others = jobs.items()
    for other, job in others:
        for key in ("path", "val_fraction", "fold", "folds"):
            one, two = getattr(first.data, key), getattr(job.data, key)
            if one != two:
                raise UserError(
                    f"{name} and {other} have other validation images, data.{key} is {one!r} and "
                    f"{two!r}: name those for all of them with --data"
                )


@restored_process()
def export(
    target: str | Path,
    form: Format,
    *,
    out: Path | None = None,
    ema: bool = False,
    ratio: float | None = None,
    last: bool = False,
    tracking_uri: str | None = None,
    printed: Printed | None = None,
) -> Exported:
    """Write the network of a run, or of a checkpoint's folder, for other programs.

    It is read back and compared with the trained one; a file with other outputs is not kept.

    Args:
        form: ``onnx``, ``pt2``, ``safetensors``, or ``folder`` for one as timm has them.
        out: the file, or the new folder; ``RUN.FORM`` in the working folder if left out.

    The others are as of `predict`.

    Raises:
        UserError: there is no such network, the file cannot be written, or a package is missing.
        RunError: the network cannot be written so.
    """
    from ltm_platform.storage.files import check_writable

    checkpoint = find_checkpoint(str(target), last=last, uri=tracking_uri)
    path = out or Path(f"{Path(target).name}.{form}")
    check_writable(path, "--out", makes_folder=form == "folder")
    from ltm_platform.inference.export import export as write
    from ltm_platform.inference.trained_network import load_network

    network = load_network(checkpoint, ema=ema, ratio=ratio)
    with (
        temporary_folder("ltm-export-") as folder,
        captured_output(folder / "log", printed),
    ):
        difference = write(network, form, path)
    return Exported(path, network.weights, network.pixels.size, len(network.classes), difference)
