"""Cluster files: ours, those that the documentation shows, and wrong ones."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from ltm_platform.errors import UserError
from ltm_platform.ray_cluster import launcher
from ltm_platform.ray_cluster.launcher import read_cluster_file

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]


def test_the_bundled_cluster_file_fits_rays_schema() -> None:
    values = read_cluster_file(ROOT / "cluster.yaml")
    starts = values["head_start_ray_commands"] + values["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in " ".join(starts)
    head = values["available_node_types"][values["head_node_type"]]["node_config"]
    assert "InstanceMarketOptions" not in head, "the head must not be a spot node"


def test_the_commands_of_the_bundled_cluster_file_are_whole() -> None:
    """A hash sign that YAML takes for a comment would cut them."""
    values = read_cluster_file(ROOT / "cluster.yaml")
    commands = [line for key in values if key.endswith("_commands") for line in values[key]]
    assert any("ltm-venv' >> ~/.bashrc" in line for line in commands)
    for line in commands:
        read = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
        assert read.returncode == 0, (line, read.stderr)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "cluster.yaml").write_text(text)
        return tmp_path / "cluster.yaml"

    return write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cluster_name: x\nprovider: {type: aws}\nmax_wrkers: 3\n", "max_wrkers"),
        ("cluster_name: x\nprovider: {type: aws}\nmax_workers: many\n", "max_workers: 'many'"),
        ("cluster_name: x\n", "'provider' is a required property"),
        ("a: [", "is no cluster file"),
        ("!!python/object/apply:os.getcwd []", "is no cluster file"),
        ("", "None is not of type 'object'"),
    ],
)
def test_a_wrong_cluster_file_is_told(
    changed: Callable[[str], Path], text: str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        read_cluster_file(changed(text))
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


ALONE = "cluster_name: x\nprovider: {type: local, head_ip: 192.0.2.1, worker_ips: []}\n"


def test_a_cluster_that_was_never_started_is_not_up(changed: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"cluster\.yaml is not up: Head node .* not found!$"):
        launcher.status(changed(ALONE))


def test_where_nobody_can_answer_a_cluster_wants_a_yes(
    changed: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for change in (launcher.up, launcher.down):
        with pytest.raises(UserError, match="give -y"):
            change(changed(ALONE), yes=False)


def documented() -> list[dict]:
    text = (ROOT / "docs/cluster.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_documented_cluster_files_fit_rays_schema(
    changed: Callable[[str], Path],
) -> None:
    files = [values for values in documented() if "cluster_name" in values]
    assert {values["provider"]["type"] for values in files} == {"gcp", "local"}
    for values in files:
        read_cluster_file(changed(yaml.safe_dump(values)))


def test_the_documented_manifest_submits_a_bundled_job_with_a_token() -> None:
    (manifest,) = (values for values in documented() if values.get("kind") == "RayJob")
    spec = manifest["spec"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    words = shlex.split(spec["entrypoint"])
    assert words[:2] == ["ltm-platform", "submit"]
    assert words[words.index("--address") + 1] == "auto"
    assert (ROOT / words[2]).is_file()
