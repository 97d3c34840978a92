"""An address where no Ray is costs a sentence, not minutes."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import first_contact
from ltm_platform.ray_cluster.address import Address, find_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ltm_platform.conftest import Run


@pytest.fixture
def silent() -> Iterator[str]:
    """Where connections are accepted, and nothing is ever said."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """Where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_ray_of_last_week_is_told_with_the_way_out(
    closed: str, call_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    answer = call_here("submit", "quickstart")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
    for part in (closed, "from the variable RAY_ADDRESS", "Connection refused", "--address local"):
        assert part in answer.err


def test_what_listens_but_is_no_ray_is_told(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_contact, "CONTACT_S", 0.3)
    with pytest.raises(UserError, match=r"from --address.*what listens there is no Ray"):
        first_contact.reach(find_address(silent))
    with pytest.raises(UserError, match=f"no Ray cluster answers at http://{silent}"):
        first_contact.reach_dashboard(Address.of(f"http://{silent}", "from --address"))


def test_a_machine_without_a_ray_to_join_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise ConnectionError

    monkeypatch.setattr(first_contact, "address_of_auto", none)
    with pytest.raises(UserError, match=r"there is no Ray on this machine to join .*address local"):
        first_contact.reach("auto")


def test_what_listens_on_127_0_0_1_alone_is_told_from_the_rest() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as here:
        assert first_contact.is_here_alone(f"127.0.0.1:{here.getsockname()[1]}")
    with closing(socket.create_server(("0.0.0.0", 0))) as anywhere:
        assert not first_contact.is_here_alone(f"127.0.0.1:{anywhere.getsockname()[1]}")
        assert not first_contact.is_here_alone(f"10.0.0.1:{anywhere.getsockname()[1]}")


JOIN = """
import sys
from ltm_platform.ray_cluster.session import session

with session(sys.argv[1]) as found:
    assert found.joined
    assert found.resources.cpus == 2
"""


START = """
import subprocess, sys
import ray
from ltm_platform.ray_cluster import first_contact
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.ray_cluster.session import Session, session

with session("local"), Session(Resources(2.0, 0.0), joined=False).ray():
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    assert first_contact.is_here_alone(address)
    subprocess.run([sys.executable, "-c", sys.argv[1], address], check=True)
"""


@pytest.mark.slow
def test_a_ray_that_listens_on_127_0_0_1_alone_can_be_joined() -> None:
    """In a process of its own, since the tests' may have joined another Ray."""
    subprocess.run([sys.executable, "-c", START, JOIN], check=True, timeout=600)
