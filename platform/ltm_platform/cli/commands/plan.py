"""``ltm-platform plan``: what a job would take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ltm_platform.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.checks.run_plan import RunPlan

GIB = 1024**3


@click.command("plan")
@options.job
@options.overrides
@options.address
@click.option(
    "--images-per-s",
    type=click.FloatRange(min=0, min_open=True),
    help="Throughput of all workers together, e.g. that of an earlier run, to tell the hours.",
)
@options.verbose
def command(
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    images_per_s: float | None,
    verbose: bool,
) -> None:
    """Show on one page what JOB would take and whether it can start. Nothing is started.

    \b
    Example:
      ltm-platform plan jobs/ltm_vit_b.yaml --set cluster.workers=[4,8] --images-per-s 4000
    """
    from ltm_platform import api
    from ltm_platform.cli.screen.console import printing
    from ltm_platform.job import JobSpec

    spec = JobSpec.load(job, overrides)
    if api.goes_to_cluster(spec, address):
        from ltm_platform.cli.screen.cluster import follow

        follow(api.plan_there(spec, address=address, images_per_s=images_per_s))
        return
    with printing(verbose=verbose) as printed:
        plan = api.plan(spec, address=address, printed=printed)
    for line in page(plan, images_per_s):
        click.echo(line)
    if plan.checked.problems:
        raise click.exceptions.Exit(2)


def page(plan: RunPlan, images_per_s: float | None) -> Iterator[str]:
    """The page, line by line."""
    from ltm_platform import tracking
    from ltm_platform.storage import locations
    from ltm_platform.storage.room import shown_bytes

    checked, job = plan.checked, plan.checked.job
    batch = checked.batch
    yield f"{job.name}: {job.model.backbone}, {job.model.method}"
    cost, base = checked.cost, checked.base_cost
    yield _row(
        "model",
        f"{cost.gmacs:.3g} GMACs (base {base.gmacs:.3g}), {cost.params_m:.3g} M parameters",
    )
    fewest, most = job.cluster.worker_range
    workers = f"{fewest} to {most}" if fewest < most else str(most)
    kind = "a GPU and " if checked.use_gpu else ""
    yield _row("workers", f"{workers}, with {kind}{job.cluster.cpus_per_worker:g} CPUs each")
    nodes = "1 node" if plan.nodes == 1 else f"{plan.nodes} nodes"
    yield _row(
        "there",
        f"{plan.there.gpus:g} GPUs and {plan.there.cpus:g} CPUs on {nodes}, of which "
        f"{plan.free.gpus:g} and {plan.free.cpus:g} are free; "
        f"at most {plan.at_most.gpus:g} and {plan.at_most.cpus:g}",
    )
    yield _row("data", f"{checked.dataset.describe()}; samples of both can be decoded")
    yield _row("storage", f"{locations.shown(plan.storage)}, probed in {plan.storage_s:.2f} s")
    free = "" if plan.free_bytes is None else f", {shown_bytes(plan.free_bytes)} are free"
    count = job.checkpoint.keep + 1
    yield _row("", f"{count} checkpoints take {shown_bytes(plan.needed_bytes)}{free}")
    yield _row("tracking", locations.shown(tracking.tracking_uri(job.tracking.uri)))
    yield _row("training", f"{plan.images:,} images in {job.recipe.epochs} epochs{_work(plan)}")
    if plan.throughput:
        yield from _throughput(plan)
    if images_per_s:
        hours = plan.hours(images_per_s)
        yield _row(
            "time", f"{hours:.3g} hours at {images_per_s:,g} images/s, validation not counted"
        )
    else:
        yield _row("time", "--images-per-s tells the hours: the figure of an earlier run")
    yield ""
    yield "workers  global batch = micro x accumulation x workers"
    for one in plan.batches:
        mark = "  <- with what there is" if one.workers == batch.workers else ""
        parts = f"{one.micro_batch} x {one.accumulation} x {one.workers}"
        yield f"{one.workers:>7}  {one.global_batch} = {parts}{mark}"
    if plan.refused:
        numbers = ", ".join(map(str, plan.refused))
        yield f"         {batch.global_batch} does not divide for {numbers} workers"
    yield ""
    yield from _memory(plan)
    yield ""
    if plan.deepspeed is None:
        yield "DeepSpeed  none at ZeRO 0: torch's DistributedDataParallel trains"
    else:
        yield f"DeepSpeed  {json.dumps(plan.deepspeed)}"
    for notice in checked.notices:
        yield _row("note", notice)
    yield ""
    for problem in checked.problems:
        yield f"cannot start: {problem}"
    if not checked.problems:
        yield "it can start"


def _throughput(plan: RunPlan) -> Iterator[str]:
    """What one worker's loader gives and its network takes."""
    rates = plan.throughput
    assert rates
    processes = "1 decode process" if rates.processes == 1 else f"{rates.processes} processes"
    each = f" of {rates.process:,.0f}" if rates.processes > 1 else ""
    where = processes if rates.processes else "decoded in the training process"
    yield _row("images/s", f"a worker's loader gives {rates.loader:,.0f} ({where}{each}),")
    if rates.network is None:
        yield _row("", "what its network takes was not tried: there is no GPU here")
    else:
        yield _row("", f"its network takes {rates.network:,.0f}: {rates.verdict()}")


def _memory(plan: RunPlan) -> Iterator[str]:
    """A table by ZeRO stage."""
    checked, job = plan.checked, plan.checked.job
    micro, workers = checked.batch.micro_batch, checked.batch.workers
    activations = plan.activation_bytes * micro
    yield (
        f"GiB a {'GPU' if checked.use_gpu else 'worker'}: activations {_gib(activations)} "
        f"(measured, {plan.activation_bytes / 1024**2:,.1f} MiB an image x {micro}), "
        f"and at least, with {workers} workers:"
    )
    yield "ZeRO  model states  with offload  with activations  DeepSpeed's estimate  with offload"
    offload = job.engine.offload
    for row in plan.memory:
        taken, mark = row.states, ""
        if row.stage == job.engine.zero_stage:
            mark = f"  <- engine.zero_stage, engine.offload {offload}"
            if offload != "none" and row.offloaded is not None:
                taken = row.offloaded
        ours = f"{_gib(row.states):>12}  {_gib(row.offloaded):>12}  {_gib(taken + activations):>16}"
        theirs = f"{_gib(row.deepspeed):>20}  {_gib(row.deepspeed_offloaded):>12}"
        yield f"{row.stage:>4}  {ours}  {theirs}{mark}"
    host = plan.memory[job.engine.zero_stage].host
    if host is not None:
        puts = "would put" if offload == "none" else "puts"
        yield f"engine.offload {puts} {_gib(host)} GiB a worker into the CPU's memory"


def _work(plan: RunPlan) -> str:
    macs = 3 * plan.checked.cost.gmacs * plan.images / 1e6  # forward, and twice that backward
    return f", {macs:.3g} peta-MACs"


def _gib(size: int | None) -> str:
    if size is None:
        return "-"
    gib = size / GIB
    return f"{gib:.3f}" if gib < 1 else f"{gib:.2f}"


def _row(key: str, value: str) -> str:
    return f"  {key:<9} {value}"
