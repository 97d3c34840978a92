"""Commands that a cluster runs are sent to it, with the job and our code."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from ltm_platform import tracking
from ltm_platform.api.jobs import address_of, load
from ltm_platform.api.process import restored_process
from ltm_platform.api.values import SentCommand
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster.address import EMBEDDED, JOINED
from ltm_platform.ray_cluster.environment import passed_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ltm_platform.job import JobSpec
    from ltm_platform.ray_cluster.jobs_api import JobsClient
    from ltm_platform.tuning.spec import Sweep

ON_THE_HEAD = ("--address", JOINED)


def send_submit(
    job: JobSpec,
    address: str,
    *,
    name: str | None,
    force: bool,
    verbose: bool,
    variables: Sequence[str],
    typed: Sequence[str],
    smoke: bool = False,
) -> SentCommand:
    """Have a job trained there, or with ``smoke`` tried.

    Raises:
        UserError: it would be refused there, or the cluster does not take it.
    """
    from ltm_platform import checks
    from ltm_platform.ray_cluster.jobs_api import JobsClient, check_store
    from ltm_platform.runs.rehearsal import rehearsal_job

    environment = passed_on(variables, os.environ)
    store = tracking.tracking_uri(job.tracking.uri)
    if not force:
        check_store(store, address, job)
    notices = checks.check_job(job)
    checks.check_network(job)
    cluster = JobsClient(address)
    run = _free_name(cluster, rehearsal_job(job) if smoke else job, store, name)
    words = ["submit", "--name", run, *ON_THE_HEAD, *_switches(force=force, verbose=verbose)]
    words += ["--smoke"] * smoke
    sent = _send(cluster, words, run, _as_sent(job, store), environment, typed)
    return replace(sent, notices=notices)


def send_tune(
    sweep: Sweep, job: JobSpec, address: str, notices: tuple[str, ...], *, verbose: bool
) -> SentCommand:
    """Run a sweep of the job there. UserError as of `send_submit`."""
    from ltm_platform.ray_cluster.jobs_api import JobsClient, check_store
    from ltm_platform.tuning.spec import named_as_sweep, read_stages

    store = tracking.tracking_uri(job.tracking.uri)
    check_store(store, address, job)
    read_stages(sweep)
    cluster = JobsClient(address)
    run = _free_name(cluster, named_as_sweep(job), store, sweep.name or None)
    words = ["tune", "--name", run, *ON_THE_HEAD, *options_of(sweep, job)]
    words += _switches(verbose=verbose)
    sent = _send(cluster, words, run, _as_sent(job, store), passed_on((), os.environ))
    return replace(sent, notices=notices)


def send_resume(
    run: str,
    address: str,
    *,
    start: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
    verbose: bool = False,
    uri: str | None = None,
) -> SentCommand:
    """Resume a run or a sweep there.

    Raises:
        UserError: it is running, or the cluster does not take it.
    """
    from ltm_platform.ray_cluster.jobs_api import JobsClient, check_no_password

    cluster = JobsClient(address)
    if cluster.training(run):
        raise UserError(f"the run {run!r} is being trained on {address}")
    store = tracking.tracking_uri(uri)
    check_no_password(store)
    words = ["resume", run, "--tracking-uri", store, *ON_THE_HEAD]
    words += ["--from", start] if start else []
    words += [word for override in overrides for word in ("--set", override)]
    words += _switches(force=force, verbose=verbose)
    return _send(cluster, words, run, None, passed_on((), os.environ))


@restored_process()
def plan_there(
    job: JobSpec | str | Path,
    *,
    overrides: Sequence[str] = (),
    address: str | None = None,
    images_per_s: float | None = None,
) -> SentCommand:
    """Have the page of ``ltm-platform plan`` printed on a cluster, where its nodes, the data and
    the storage are.

    Raises:
        UserError: as of `submit`, or the address is no cluster's.
    """
    from ltm_platform import checks
    from ltm_platform.ray_cluster.jobs_api import JobsClient

    spec = load(job, overrides)
    cluster = JobsClient(address_of(spec, address))
    words = ["plan", *ON_THE_HEAD]
    words += ["--images-per-s", str(images_per_s)] if images_per_s else []
    notices = checks.check_job(spec)
    there = _as_sent(spec, tracking.tracking_uri(spec.tracking.uri))
    return replace(_send(cluster, words, spec.name, there, {}), notices=notices)


def send_stop(run: str, address: str, *, now: bool, uri: str | None) -> SentCommand:
    """Have the head stop a run of its own."""
    from ltm_platform.ray_cluster.jobs_api import JobsClient, check_no_password

    store = tracking.tracking_uri(uri)
    check_no_password(store)
    words = ["stop", run, "--tracking-uri", store]
    words += ["--now"] if now else []
    return _send(JobsClient(address), words, run, None, {})


def _send(
    cluster: JobsClient,
    words: Sequence[str],
    run: str,
    job: JobSpec | None,
    environment: Mapping[str, str],
    typed: Sequence[str] = (),
) -> SentCommand:
    submission = cluster.send(
        words,
        run=run,
        job=job.to_yaml() if job else None,
        environment=environment,
        typed=typed,
    )
    return SentCommand(run, cluster.address, submission)


def _switches(*, force: bool = False, verbose: bool = False) -> list[str]:
    return ["--force"] * force + ["--verbose"] * verbose


def options_of(sweep: Sweep, job: JobSpec) -> list[str]:
    """The options of ``ltm-platform tune`` that make the same sweep of the job."""
    words = [f"--param={text}" for text in sweep.params]
    words += [f"--objective={text}" for text in sweep.objectives]
    words += [f"--scheduler={sweep.scheduler}", f"--grace={sweep.grace}", f"--seed={sweep.seed}"]
    given = {"search": sweep.search, "trials": sweep.trials, "protocol": sweep.protocol}
    words += [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*words, "--set", f"cluster.workers={json.dumps(job.cluster.workers)}"]


def _as_sent(job: JobSpec, store: str) -> JobSpec:
    from ltm_platform import checks
    from ltm_platform.ray_cluster.jobs_api import check_no_password

    check_no_password(store)
    checks.check_no_keys(job)
    job = checks.with_absolute_paths(job).replace("tracking.uri", store)
    return job.replace("cluster.address", EMBEDDED)


def _free_name(cluster: JobsClient, job: JobSpec, store: str, name: str | None) -> str:
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
