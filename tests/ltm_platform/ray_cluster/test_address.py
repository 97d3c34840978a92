"""What an address means, and which one counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import address
from ltm_platform.ray_cluster.address import HERE, Kind, find_address, kind
from ltm_platform.ray_cluster.auth_token import token_wanted

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("local", Kind.EMBEDDED),
        ("here", Kind.EMBEDDED),
        ("auto", Kind.JOINED),
        ("10.0.0.1:6379", Kind.JOINED),
        ("http://head:8265", Kind.CLUSTER),
        ("https://ray.example.com/team", Kind.CLUSTER),
    ],
)
def test_an_address_tells_how_ray_is_reached(address: str, meant: Kind) -> None:
    assert kind(address) == meant


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "http://a b", "$(touch x):1", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="must be http://HOST:8265"):
        kind(address)


def test_the_option_comes_before_the_job_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = JobSpec.load("quickstart", ["cluster.address=http://job:8265/"])
    plain = JobSpec.load("quickstart")
    assert find_address(None, plain) == HERE
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_address(None, plain) == "10.0.0.1:6379"
    assert find_address(None, job) == "http://job:8265"
    assert find_address("http://option:8265", job) == "http://option:8265"


def test_a_wrong_address_is_told_with_its_place() -> None:
    job = JobSpec.load("quickstart", ["cluster.address=head"])
    with pytest.raises(UserError, match=r"^--set cluster\.address=head: cluster\.address: "):
        find_address(None, job)


def test_no_ray_is_kept_here() -> None:
    assert not address.is_here("http://127.0.0.1:8265")


def test_who_is_not_let_in_is_told_where_the_token_is() -> None:
    sentence = str(token_wanted("http://head:8265"))
    assert "http://head:8265 wants a token" in sentence
    assert "~/.ray/auth_token" in sentence


@pytest.mark.parametrize("how", ["option", "variable", "job"])
def test_a_key_in_what_is_no_address_is_not_shown(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://me:sesame@host:8265"
    job = JobSpec.load("quickstart", [f"cluster.address={address}"] if how == "job" else [])
    if how == "variable":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"address is 'http://\*\*\*@host:8265', but") as refused:
        find_address(address if how == "option" else None, job)
    assert "sesame" not in str(refused.value)


def test_an_address_knows_where_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobSpec.load("quickstart", ["cluster.address=http://job:8265/"])
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_address("auto", job).source == "from --address"
    assert find_address(None, job).source == "from cluster.address of the job"
    assert find_address(None).source == "from the variable RAY_ADDRESS"
    assert find_address(None, job) == "http://job:8265"
