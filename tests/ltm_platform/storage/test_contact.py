"""A store that does not answer, lets nobody in or lacks the bucket costs a sentence."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from ltm_platform.errors import UserError
from ltm_platform.storage import contact
from ltm_platform.storage.addresses import shown
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def closed() -> str:
    """Where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Where connections are accepted, and nothing is ever said."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def locked(bucket: str, object_store: dict[str, str]) -> Iterator[str]:
    """A bucket whose store asks for credentials."""

    def free_requests(count: str) -> None:
        address = f"{object_store['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urlopen(Request(address, count.encode(), headers, method="POST")).close()

    free_requests("0")
    yield bucket
    free_requests("inf")


def sentence(address: str) -> str:
    with pytest.raises(UserError) as error:
        contact.reach(address)
    (line,) = str(error.value).splitlines()
    assert line.startswith(shown(address.partition("?")[0]))
    return line


def test_a_store_that_refuses_connections_is_named_with_what_named_it(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{closed}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    line = sentence("s3://tokens/images")
    assert f"http://{closed} (AWS_ENDPOINT_URL) does not answer" in line
    assert "Could not connect" in line
    assert line.endswith("check AWS_ENDPOINT_URL and AWS_DEFAULT_REGION")


def test_a_store_that_says_nothing_is_given_up(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "CONTACT_S", 0.5)
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://{silent}")
    query = f"region=us-east-1&scheme=http&endpoint_override={silent}"
    line = sentence(f"s3://bucket/images?{query}")
    assert f"{silent} (endpoint_override) gave no answer within" in line
    line = sentence("gs://anonymous@bucket/images")
    assert f"http://{silent} (CLOUD_STORAGE_EMULATOR_ENDPOINT) gave no answer within" in line


def test_google_without_credentials_is_told_how_to_give_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{tmp_path}/nowhere.json")
    line = sentence("gs://bucket/images")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in line


@pytest.mark.slow
def test_a_google_store_that_refuses_connections_is_named(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://{closed}")
    line = sentence("gs://anonymous@bucket/images")
    assert f"http://{closed} (CLOUD_STORAGE_EMULATOR_ENDPOINT) does not answer" in line


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    assert f"has no bucket '{name}-else'; make it" in sentence(f"{bucket}-else/images")
    assert f"has no bucket '{name}-else'; make it" in sentence(f"{bucket}-else")
    contact.reach(f"{bucket}-else/runs?allow_bucket_creation=true")


def test_wrong_credentials_are_told_with_where_they_come_from(locked: str) -> None:
    line = sentence(f"{locked}/images")
    assert "(AWS_ENDPOINT_URL) refuses access" in line
    assert "give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line


def test_a_key_in_the_address_is_not_shown(locked: str) -> None:
    name = locked.removeprefix("s3://")
    line = sentence(f"s3://AKIA:sesame@{name}/images")
    assert "sesame" not in line
    assert "AKIA" not in line


def test_a_store_that_answers_is_reached_whether_or_not_something_is_there(bucket: str) -> None:
    contact.reach(f"{bucket}/nothing/yet")
    contact.reach(bucket)
    (storage_path(bucket) / "images/1.png").write(b"image")
    contact.reach(f"{bucket}/images")
    contact.reach(f"{bucket}/images/1.png?region=us-east-1")


@pytest.mark.parametrize("address", ["/here", "file:///here", "foo://there", "hf://there/too"])
def test_what_is_in_no_store_that_we_know_is_left_to_others(address: str) -> None:
    contact.reach(address)
