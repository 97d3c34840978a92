"""A client of Ray's Jobs API: sends commands to a cluster, and follows them."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from ltm.errors import first_line
from ltm_platform.compat.ray_clusters import STOP_WAIT_VARIABLE, is_agent_missing, quiet_client
from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import first_contact
from ltm_platform.ray_cluster.address import is_here
from ltm_platform.ray_cluster.auth_token import token_wanted, use_token
from ltm_platform.ray_cluster.code_upload import write_package
from ltm_platform.storage.addresses import has_secret
from ltm_platform.storage.locations import HOME_VARIABLE, shown
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ltm_platform.job import JobSpec

ENTRY = "python -m ltm_platform.cli.on_cluster"
"""What the cluster's shell sees, whatever the user typed; the rest is in `REQUEST`."""
REQUEST = "LTM_PLATFORM_REQUEST"
STOP_WAIT_S = 60
"""Between ``ray job stop`` and SIGKILL: time for the run to close itself."""
RETRY_S = 1.0
UNREACHABLE_S = 120.0
"""How long a dashboard may be unreachable, as when it restarts, before following ends."""
AGENT_S = 60.0
"""How long a head that has just started may have no agent to start a job."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True)
class Request:
    """A command of ours to run on the cluster."""

    args: tuple[str, ...]
    job: str | None
    """A resolved job file, given to the command as its second word, or as ``--job``."""
    cluster: str
    """The address that it was sent to."""
    submission: str
    typed: tuple[str, ...] = ()
    """What the user typed, where it is shown again."""

    @classmethod
    def here(cls) -> Request | None:
        """The one that this process runs, if any."""
        text = os.environ.get(REQUEST)
        if not text:
            return None
        values = json.loads(text)
        return cls(**values | {key: tuple(values[key]) for key in ("args", "typed")})


@dataclass(frozen=True, slots=True)
class Sent:
    """A command of ours that the cluster knows."""

    id: str
    run: str
    command: str
    status: str
    message: str
    exit_code: int | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def begins(self) -> bool:
        """Whether it starts a run or a sweep."""
        return self.command in ("submit", "tune")


def check_no_password(uri: str) -> None:
    """UserError: the address holds a password."""
    if has_secret(uri):
        raise UserError(
            f"the tracking store is {shown(uri)}: everyone who sees the cluster's dashboard would "
            f"see its password; name an MLflow server that asks for none, such as one of the "
            f"cluster's network"
        )


def check_store(uri: str, address: str, job: JobSpec) -> None:
    """The cluster can record into the tracking store.

    Raises:
        UserError: the store is a file on this machine, which the cluster does not see.
    """
    if uri.startswith("sqlite:") and not is_here(address):
        raise job.error(
            "tracking.uri",
            f"tracking.uri is {uri!r}, a file on this machine, which the cluster at {address} "
            f"does not see: name a server that both reach, such as http://127.0.0.1:5000 of the "
            f"cluster's head through a tunnel",
        )


def _once_there_is_an_agent(submit: Callable[..., str]) -> Callable[..., str]:
    """``submit`` again while a head that has just started has no agent yet to start a job."""
    return retry(
        retry=retry_if_exception(is_agent_missing),
        wait=wait_fixed(RETRY_S),
        stop=stop_after_delay(AGENT_S),
        reraise=True,
    )(submit)


class JobsClient:
    """A Ray cluster at the address of its dashboard."""

    def __init__(self, address: str) -> None:
        """
        Raises:
            UserError: there is none, or it refuses this user.
        """
        use_token()
        first_contact.reach_dashboard(address)
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError:
            raise token_wanted(address) from None
        except (RuntimeError, OSError) as error:
            raise UserError(f"the cluster at {address} refuses: {_line(error)}") from None
        quiet_client()

    def send(
        self,
        args: Sequence[str],
        *,
        run: str,
        job: str | None,
        environment: Mapping[str, str],
        typed: Sequence[str] = (),
    ) -> str:
        """Run a command of ours on the head; returns the job's id there.

        Raises:
            UserError: the code is too large, or the cluster refuses.
        """
        submission = f"{run}~{uuid.uuid4().hex[:8]}"
        request = Request(tuple(args), job, self.address, submission, tuple(typed))
        variables = dict(environment) | {
            REQUEST: json.dumps(asdict(request)),
            STOP_WAIT_VARIABLE: str(STOP_WAIT_S),
        }
        if is_here(self.address) and HOME_VARIABLE in os.environ:
            variables[HOME_VARIABLE] = os.environ[HOME_VARIABLE]
        with temporary_folder("ltm-code-") as folder:
            write_package(folder)
            try:
                _once_there_is_an_agent(self._client.submit_job)(
                    entrypoint=ENTRY,
                    submission_id=submission,
                    runtime_env={"working_dir": str(folder), "env_vars": variables},
                    metadata={"run": run, "command": args[0]},
                )
            except (RuntimeError, OSError, ValueError) as error:
                raise UserError(f"the cluster at {self.address} refuses: {_line(error)}") from None
        return submission

    def sent(self, run: str | None = None) -> list[Sent]:
        """What was sent there, the newest first; of one run, or of all."""
        jobs = sorted(self._client.list_jobs(), key=lambda job: -(job.start_time or 0))
        known = [_sent(job) for job in jobs if "run" in (job.metadata or {})]
        return [one for one in known if run in (None, one.run)]

    def look(self, submission: str) -> Sent:
        return _sent(self._client.get_job_info(submission))

    def training(self, run: str) -> Sent | None:
        """The job that trains a run and has not ended."""
        training = (one for one in self.sent(run) if one.begins or one.command == "resume")
        return next((one for one in training if not one.ended), None)

    def log(self, submission: str) -> str:
        """What it has printed so far."""
        return str(self._client.get_job_logs(submission))

    def follow(self, submission: str) -> Iterator[str]:
        """What it prints, from its beginning to its end, also beyond a restart of the dashboard.

        Raises:
            UserError: the cluster cannot be reached for too long.
        """
        from aiohttp import ClientError

        yielded, last_seen = 0, time.monotonic()
        while True:
            position = 0
            try:
                for text in self._tail(submission):
                    last_seen = time.monotonic()
                    new = text[max(0, yielded - position) :]
                    position += len(text)
                    yielded = max(yielded, position)
                    if new:
                        yield new
                if self.look(submission).ended:
                    yield self.log(submission)[yielded:]
                    return
            except (RuntimeError, OSError, ClientError) as error:
                if time.monotonic() - last_seen > UNREACHABLE_S:
                    raise UserError(
                        f"the cluster at {self.address} is away: {_line(error)}"
                    ) from None
            time.sleep(RETRY_S)

    def _tail(self, submission: str) -> Iterator[str]:
        chunks = self._client.tail_job_logs(submission)

        async def piece() -> str | None:
            return str(chunk) if (chunk := await anext(chunks, None)) is not None else None

        with asyncio.Runner() as runner:
            # The runner cancels its task on Ctrl-C.
            while (text := runner.run(piece())) is not None:
                yield text

    def interrupt(self, submission: str) -> None:
        """End a job, with `STOP_WAIT_S` to close its run, and wait until it has ended."""
        self._client.stop_job(submission)
        while not self.look(submission).ended:
            time.sleep(RETRY_S)


def exit_code(sent: Sent) -> int:
    """The exit code of the command that has ended on the cluster."""
    if sent.status == "SUCCEEDED":
        return 0
    if sent.status == "STOPPED":
        return 130
    return 1 if sent.exit_code is None else sent.exit_code % 256


def arguments(request: Request, folder: Path) -> list[str]:
    """The words of the command; its job file is written into ``folder``."""
    if request.job is None:
        return list(request.args)
    file = folder / "job.yaml"
    file.write_text(request.job)
    command, *rest = request.args
    return [command, *["--job"] * (command == "tune"), str(file), *rest]


def _sent(job: Any) -> Sent:
    return Sent(
        id=job.submission_id,
        run=job.metadata["run"],
        command=job.metadata.get("command", ""),
        status=str(getattr(job.status, "value", job.status)),
        message=(job.message or "").strip().splitlines()[0] if job.message else "",
        exit_code=job.driver_exit_code,
    )


def _line(error: BaseException) -> str:
    return first_line(error)[:500]
