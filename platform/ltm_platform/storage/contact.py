"""The first contact with an object store: short, where its client itself tries for minutes.

Once there was an answer, the client's own patience holds: a store may be away for a moment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import NamedTuple
from urllib.parse import parse_qs

from ltm_platform.errors import ReadError
from ltm_platform.storage.addresses import has_secret, shown

CONTACT_S = 15.0
_RETRY_LIMIT_S = 3
"""Of Google's client, which then says what is wrong; it would try for 15 minutes."""


class _Store(NamedTuple):
    """Stores of one kind, in words."""

    name: str
    endpoints: tuple[str, ...]
    """Variables of the environment that name another server than the provider's."""
    place: str
    """What decides which server is asked."""
    credentials: str


_S3 = _Store(
    "AWS",
    ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "AWS_ENDPOINT_URL and AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials, or an instance role",
)
_GOOGLE = _Store(
    "Google Cloud Storage",
    ("CLOUD_STORAGE_EMULATOR_ENDPOINT",),
    "the network and the proxy (https_proxy)",
    "GOOGLE_APPLICATION_CREDENTIALS, or 'gcloud auth application-default login'",
)
_AZURE = _Store(
    "Azure",
    (),
    "the account in the address and the network",
    "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or 'az login'",
)
_HDFS = _Store(
    "the name node",
    (),
    "host and port in the address, and HADOOP_HOME",
    "HADOOP_CONF_DIR, or 'kinit'",
)
_STORES = {
    "s3": _S3,
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "hdfs": _HDFS,
    "viewfs": _HDFS,
}

_REFUSED = re.compile(
    r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIAL|UNRECOGNIZED_CLIENT|PERMISSION_DENIED"
    r"|UNAUTHENTICATED|OAuth2|status 40[13]\b"
)
_AWAY = re.compile(
    r"NETWORK_CONNECTION|UNAVAILABLE|SLOW_DOWN|status 50\d\b|(?i:curl|connect|resolve)"
)
_DETAILS = re.compile(
    r"; Details: .*| error_info=.*|google::cloud::Status\("
    r"|The request was not sent.*?underlying error message was: ",
    re.DOTALL,
)
"""In which clients say the same again."""


def reach(address: str, field: str = "") -> None:
    """See that the store of an address answers, lets us in and has its bucket.

    field: the field or the argument that has the address, where no caller adds it.

    Raises:
        ReadError: it does not, within `CONTACT_S`; the sentence says who was asked and what to do.
    """
    reason = problem_of(address)
    if reason:
        named = f"{field}: " if field else ""
        raise ReadError(f"{named}{shown(address)} cannot be reached: {reason}")


def problem_of(address: str) -> str | None:
    """Why `reach` refuses an address, with what to do; None where it does not.

    What is no address of a store that is far away is left to others. Another process asks, since
    no limit of pyarrow holds for a server that takes a connection and then says nothing.
    """
    scheme, mark, rest = address.partition("://")
    store = _STORES.get(scheme.lower()) if mark else None
    if store is None:
        return None
    query = parse_qs(rest.partition("?")[2])
    problem = _ask(_limited(address) if store is _GOOGLE else address)
    if problem is None or (problem == "NoSuchBucket" and "allow_bucket_creation" in query):
        return None
    return _reason(problem, address, store, _endpoint(store, query))


def _limited(address: str) -> str:
    if "retry_limit_seconds=" in address:
        return address
    return f"{address}{'&' if '?' in address else '?'}retry_limit_seconds={_RETRY_LIMIT_S}"


def _ask(address: str) -> str | None:
    """What is wrong; None if nothing is, and "" if there was no answer."""
    script = Path(__file__).with_name("contact_process.py")
    # -P: this folder's modules are not to be found under the names of others.
    command = [sys.executable, "-P", str(script)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        print(json.dumps(address), file=process.stdin, flush=True)
        process.stdout.readline()  # a busy machine may take its time until then
        limit = Timer(CONTACT_S, process.kill)
        limit.start()
        try:
            answer = process.stdout.readline()
        finally:
            limit.cancel()
            process.kill()
    problem: str | None = json.loads(answer) if answer else ""
    return problem


def _endpoint(store: _Store, query: dict[str, list[str]]) -> str:
    """The server that is asked, and what says so."""
    if override := query.get("endpoint_override"):
        return f"{shown(override[-1])} (endpoint_override)"
    named = next((name for name in store.endpoints if os.environ.get(name)), None)
    return f"{shown(os.environ[named])} ({named})" if named else store.name


def _reason(problem: str, address: str, store: _Store, asked: str) -> str:
    if not problem:
        return f"{asked} gave no answer within {CONTACT_S:g} s; check {store.place}"
    if problem == "NoSuchBucket":
        bucket = re.split(r"[/?]", shown(address).partition("://")[2].rpartition("@")[2])[0]
        return f"{asked} has no bucket {bucket!r}; make it, or check its name and {store.place}"
    words = re.sub("'[^']*'", "", problem)  # without names, which may be any
    # What is said may repeat a key.
    said = "" if has_secret(address) else f" ({_DETAILS.sub('', problem).splitlines()[0]})"
    if _REFUSED.search(words):
        return f"{asked} refuses access{said}; give credentials by {store.credentials}"
    if _AWAY.search(words):
        return f"{asked} does not answer{said}; check {store.place}"
    return f"{asked} cannot answer{said}; check the address, {store.place}"
