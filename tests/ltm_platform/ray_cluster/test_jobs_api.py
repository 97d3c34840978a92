"""What goes to a cluster, how it gets there and what it may not hold."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from ltm_platform.api.sending import options_of
from ltm_platform.cli.commands import tune
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import code_upload, jobs_api, launcher
from ltm_platform.ray_cluster.address import EMBEDDED, Kind, find_address, kind
from ltm_platform.ray_cluster.jobs_api import (
    Request,
    arguments,
    check_no_password,
    check_store,
    passed_on,
)
from ltm_platform.ray_cluster.launcher import read_cluster_file
from ltm_platform.runs.driver import location_tags
from ltm_platform.tracking.runs import CLUSTER_TAG, SUBMISSION_TAG
from ltm_platform.tuning.spec import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


# --- where


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("local", Kind.EMBEDDED),
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
    assert find_address(None, plain) == EMBEDDED
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_address(None, plain) == "10.0.0.1:6379"
    assert find_address(None, job) == "http://job:8265"
    assert find_address("http://option:8265", job) == "http://option:8265"


def test_a_wrong_address_is_told_with_its_place() -> None:
    job = JobSpec.load("quickstart", ["cluster.address=head"])
    with pytest.raises(UserError, match=r"^--set cluster\.address=head: cluster\.address: "):
        find_address(None, job)


# --- what goes along


def test_only_what_is_listed_or_asked_for_goes_along() -> None:
    environment = {"NCCL_DEBUG": "INFO", "MINE": "1", "AWS_SECRET_ACCESS_KEY": "x", "HOME": "/"}
    assert passed_on((), environment) == {"NCCL_DEBUG": "INFO"}
    assert passed_on(["MINE"], environment) == {"NCCL_DEBUG": "INFO", "MINE": "1"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("AWS_SECRET_ACCESS_KEY", "looks like a secret"),
        ("HF_TOKEN", "looks like a secret"),
        ("MISSING", "is not set here"),
        ("A=B", "must be the name"),
    ],
)
def test_secrets_and_what_is_no_variable_do_not_go_along(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        passed_on([name], {"AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y"})


def test_the_code_goes_without_data_and_stores(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("a.py", "sub/b.py", "sub/table.yaml", "__pycache__/a.pyc", "mlruns/1/meta.yaml"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("x")
    for name in ("weights.safetensors", "images.tar", "mlflow.db", "photo.JPG"):
        (code / name).write_text("x")
    (code / "link.py").symlink_to("/etc/passwd")
    found = [str(file.to) for file in code_upload.code_files([code])]
    assert found == ["code/a.py", "code/sub/b.py", "code/sub/table.yaml"]


def test_too_much_code_is_refused_with_its_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_upload, "LARGEST_BYTES", 3 << 20)
    for number in range(7):
        (tmp_path / f"{number}.bin").write_bytes(bytes((number + 1) << 18))
    with pytest.raises(UserError) as error:
        code_upload.code_files([tmp_path])
    sentence = str(error.value)
    assert "the code is 7.0 MiB, but a cluster takes 3.0 MiB" in sentence
    assert sentence.index("6.bin (1.8 MiB)") < sentence.index("2.bin (0.8 MiB)")
    assert "1.bin" not in sentence


def test_the_package_holds_both_packages(tmp_path: Path) -> None:
    code_upload.write_package(tmp_path)
    assert (tmp_path / "ltm/__init__.py").is_file()
    assert (tmp_path / "ltm_platform/cli/on_cluster.py").is_file()
    assert not list(tmp_path.rglob("*.pyc"))
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 5 << 20


def test_the_shell_there_sees_nothing_that_the_user_typed() -> None:
    assert set(jobs_api.ENTRY) <= set("abcdefghijklmnopqrstuvwxyz_.- ")


def test_a_request_arrives_as_it_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["resume", "x", "--set", "recipe.lr=$(touch /tmp/x); `id` 'a' \"b\""]
    sent = {
        "args": words,
        "job": None,
        "cluster": "http://head:8265",
        "submission": "x~1",
        "typed": [],
    }
    assert Request.here() is None
    assert set(location_tags().values()) & {"http://head:8265", "x~1"} == set()
    monkeypatch.setenv(jobs_api.REQUEST, json.dumps(sent))
    request = Request.here()
    assert request
    assert arguments(request, tmp_path) == words
    tags = location_tags()
    assert (tags[CLUSTER_TAG], tags[SUBMISSION_TAG]) == ("http://head:8265", "x~1")


def test_the_job_arrives_complete(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["recipe.epochs=3"])
    request = Request(("submit", "--name", "x"), job.to_yaml(), "http://head:8265", "x~1")
    command, file, *rest = arguments(request, tmp_path)
    assert (command, rest) == ("submit", ["--name", "x"])
    assert JobSpec.load(file) == job


def test_a_sweep_arrives_as_it_was_asked_for(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["cluster.workers=[1, 2]"])
    sweep = Sweep(
        name="s",
        job=job.to_dict(),
        params=("model.method=choice:ltm,tome", "recipe.lr=log:1e-4:1e-2"),
        objectives=("val/top1:max", "model/gmacs"),
        trials=5,
        scheduler="asha",
        grace=2,
    )
    words = ("tune", "--name", "s", *options_of(sweep, job))
    found = arguments(Request(words, job.to_yaml(), "http://head:8265", "s~1"), tmp_path)
    options = tune.command.make_context("tune", found[1:]).params
    sent = JobSpec.load(options["job"], options["overrides"])
    assert sent.cluster.workers == (1, 2)
    assert sent.where("cluster.workers").startswith("--set")  # not the default of a sweep
    for name in ("params", "search", "trials", "scheduler", "grace", "seed", "protocol", "name"):
        assert options[name] == getattr(sweep, name), name
    assert options["objectives"] == sweep.objectives


def test_a_store_that_the_cluster_cannot_see_is_refused() -> None:
    job = JobSpec.load("quickstart")
    with pytest.raises(UserError, match="a file on this machine, which the cluster"):
        check_store("sqlite:////home/me/mlflow.db", "http://head:8265", job)
    check_store("http://127.0.0.1:5000", "http://head:8265", job)


def test_a_cluster_that_is_not_there_is_as_run_error() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at http://127\.0\.0\.1:1"):
        jobs_api.Cluster("http://127.0.0.1:1")


# --- the cluster's file


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


def test_a_password_is_not_sent_and_not_shown() -> None:
    check_no_password("http://mlflow:5000")
    with pytest.raises(UserError, match=r"postgresql://me:\*\*\*@db/mlflow") as refused:
        check_no_password("postgresql://me:secret@db/mlflow")
    assert "secret" not in str(refused.value)
