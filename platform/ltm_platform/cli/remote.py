"""Commands that a cluster carries out: sent there, followed, detached from."""

from __future__ import annotations

import json
import os
import shlex
from itertools import count
from typing import TYPE_CHECKING

import click

from ltm_platform import checks, tracking
from ltm_platform.cli.foreground_sweep import named_as_sweep
from ltm_platform.cli.program import program
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.address import EMBEDDED
from ltm_platform.ray_cluster.jobs_api import (
    Cluster,
    check_no_password,
    check_store,
    exit_code,
    passed_on,
)
from ltm_platform.tuning.spec import read_stages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.job import JobSpec
    from ltm_platform.tuning.spec import Sweep

ON_THE_HEAD = ("--address", "auto")


def submit(
    job: JobSpec,
    address: str,
    options: Sequence[str],
    *,
    name: str | None,
    variables: Sequence[str],
    typed: Sequence[str],
    detach: bool,
) -> None:
    """Send a job to be trained there, and follow it."""
    environment = passed_on(variables, os.environ)
    store = tracking.tracking_uri(job.tracking.uri)
    if "--force" not in options:
        check_store(store, address, job)
    checks.check_names(job)
    cluster = Cluster(address)
    run = _free_name(cluster, job, store, name)
    submission = cluster.send(
        ["submit", "--name", run, *ON_THE_HEAD, *options],
        run=run,
        job=_as_sent(job, store).to_yaml(),
        environment=environment,
        typed=typed,
    )
    _follow_or_detach(cluster, run, submission, detach=detach)


def tune(sweep: Sweep, job: JobSpec, address: str, *, verbose: bool, detach: bool) -> None:
    """Send a sweep to be carried out there, and follow it."""
    store = tracking.tracking_uri(job.tracking.uri)
    check_store(store, address, job)
    read_stages(sweep)
    cluster = Cluster(address)
    run = _free_name(cluster, named_as_sweep(job), store, sweep.name or None)
    submission = cluster.send(
        ["tune", "--name", run, *ON_THE_HEAD, *options_of(sweep, job), *["--verbose"] * verbose],
        run=run,
        job=_as_sent(job, store).to_yaml(),
        environment=passed_on((), os.environ),
    )
    _follow_or_detach(cluster, run, submission, detach=detach)


def options_of(sweep: Sweep, job: JobSpec) -> list[str]:
    """The options that make the same sweep of the job."""
    words = [f"--param={text}" for text in sweep.params]
    words += [f"--objective={text}" for text in sweep.objectives]
    words += [f"--scheduler={sweep.scheduler}", f"--grace={sweep.grace}", f"--seed={sweep.seed}"]
    given = {"search": sweep.search, "trials": sweep.trials, "protocol": sweep.protocol}
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*words, "--set", f"cluster.workers={json.dumps(job.cluster.workers)}"]


def resume(
    run: str, address: str, options: Sequence[str], *, uri: str | None, detach: bool
) -> None:
    """Have a run go on there, and follow it."""
    cluster = Cluster(address)
    if cluster.training(run):
        raise UserError(f"the run {run!r} is being trained on {address}")
    store = tracking.tracking_uri(uri)
    check_no_password(store)
    words = ["resume", run, "--tracking-uri", store, *ON_THE_HEAD, *options]
    submission = cluster.send(words, run=run, job=None, environment=passed_on((), os.environ))
    _follow_or_detach(cluster, run, submission, detach=detach)


def plan(job: JobSpec, address: str, options: Sequence[str]) -> None:
    """Have the page printed there, where the nodes, the data and the storage are."""
    cluster = Cluster(address)
    store = tracking.tracking_uri(job.tracking.uri)
    words = ["plan", *ON_THE_HEAD, *options]
    sent = _as_sent(job, store).to_yaml()
    submission = cluster.send(words, run=job.name, job=sent, environment={})
    follow(cluster, submission)


def ask(run: str, address: str, args: Sequence[str]) -> None:
    """Have a command about a run carried out on the head, and show what it says."""
    cluster = Cluster(address)
    follow(cluster, cluster.send(args, run=run, job=None, environment={}))


def follow(cluster: Cluster, submission: str) -> None:
    """Show what it prints; exit as it does."""
    for text in cluster.follow(submission):
        click.echo(text, nl=False)
    sent = cluster.look(submission)
    if sent.status != "SUCCEEDED" and sent.exit_code is None and sent.message:
        click.echo(sent.message, err=True)
    if code := exit_code(sent):
        raise SystemExit(code)


def _as_sent(job: JobSpec, store: str) -> JobSpec:
    check_no_password(store)
    checks.check_no_keys(job)
    job = checks.with_absolute_paths(job).replace("tracking.uri", store)
    return job.replace("cluster.address", EMBEDDED)


def _free_name(cluster: Cluster, job: JobSpec, store: str, name: str | None) -> str:
    """``name``, or the next free ``<job name>-<number>``.

    Raises:
        UserError: there is a run of that name.
    """
    taken = {run.name for run in tracking.list_runs(store)}
    taken |= {sent.run for sent in cluster.sent() if not sent.ended}
    if name is None:
        return next(n for n in (f"{job.name}-{k}" for k in count(1)) if n not in taken)
    if name in taken:
        raise UserError(
            f"a run named {name!r} exists already: go on with it (ltm-platform resume {name}) "
            f"or choose another --name"
        )
    return name


def _follow_or_detach(cluster: Cluster, run: str, submission: str, *, detach: bool) -> None:
    click.echo(f"{run} is on {cluster.address}")
    if detach:
        _how_to_follow(run)
        return
    try:
        follow(cluster, submission)
    except KeyboardInterrupt:
        click.echo(f"\ndetached: {run} goes on")
        _how_to_follow(run)
        raise SystemExit(130) from None


def _how_to_follow(run: str) -> None:
    for words, purpose in (("logs -f", "follow it"), ("stop", "end it with a checkpoint")):
        click.echo(f"  {shlex.join(program())} {words} {run}  # {purpose}")
