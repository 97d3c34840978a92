"""README and docs: their commands, jobs and code are those of the code."""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import subprocess
import sys
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import click
import pytest
import torch
import yaml

import ltm
from ltm_platform.checks import check_job
from ltm_platform.cli.app import cli, main
from ltm_platform.job import JobSpec
from ltm_platform.models import create_model
from ltm_platform.tuning.spec import Sweep, read_stages

from .pages import ROOT, Block, Command, block, blocks, commands

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = commands()
OURS = [one for one in COMMANDS if one.words[0] == "ltm-platform"]
SCRIPTS = [one for one in COMMANDS if one.words[0] == "python" and one.words[1] != "cli.py"]
MAKES = [one for one in COMMANDS if one.words[0] == "make"]

PLACEHOLDERS = {"METHOD": "dtem", "STAGE": "1", "JOB": "quickstart", "tiny.yaml": "quickstart"}

E2E = "tests/e2e"
HERE = "tests/ltm_platform"
RUN_BY = {
    "make quickstart": f"{E2E}/test_quickstart.py::test_the_screen_is_calm_and_says_what_is_next",
    "python cli.py": f"{E2E}/test_packaging.py::test_a_bare_checkout_runs",
    "python docs/figures/house.py": f"{E2E}/test_guides.py::test_the_picture_shows_the_contract",
    "python benchmarks/scaling_table.py": f"{E2E}/test_docs.py::test_the_scaling_tables",
    "python benchmarks/*": f"{E2E}/test_benchmarks.py::test_a_benchmark_runs_at_its_smallest",
    "ltm-platform --help": f"{HERE}/cli/test_commands.py::test_help_imports_nothing_heavy",
    "ltm-platform cost *": f"{E2E}/test_guides.py::test_a_verb_is_a_file_and_a_name",
    "ltm-platform submit jobs/quickstart.yaml": (
        f"{E2E}/test_quickstart.py::test_the_held_out_digits_are_read"
    ),
    "ltm-platform submit * --set model.compression_ratio=1.5": (
        f"{E2E}/test_docs.py::test_a_mistake_is_answered_as_the_readme_shows"
    ),
    "ltm-platform submit * --detach": (
        f"{E2E}/test_cluster.py::test_a_run_is_sent_followed_and_stopped_and_the_next_waits_for_it"
    ),
    "ltm-platform submit * --profile": (
        f"{HERE}/training/test_profiling.py::"
        "test_ten_steps_are_traced_also_over_the_end_of_an_epoch"
    ),
    "ltm-platform submit jobs/quickstart.yaml --set *": (
        f"{E2E}/test_engines.py::test_stage_1_every_step_at_another_ratio_within_a_budget"
    ),
    "ltm-platform submit jobs/*.yaml --smoke": (
        f"{E2E}/test_smoke.py::test_a_job_is_tried_and_nothing_of_it_stays"
    ),
    "ltm-platform submit jobs/*.yaml --set data.path=FOLDER": (
        f"{HERE}/job/test_job_files.py::"
        "test_every_rival_of_the_table_has_a_job_at_its_published_cost"
    ),
    "ltm-platform submit": f"{E2E}/test_quickstart.py::test_the_held_out_digits_are_read",
    "ltm-platform validate *": (
        f"{HERE}/cli/test_commands.py::test_validate_prints_the_whole_job_and_writes_nothing"
    ),
    "ltm-platform plan*": (
        f"{HERE}/cli/test_commands.py::test_plan_is_one_page_and_starts_nothing"
    ),
    "ltm-platform runs": (
        f"{E2E}/test_quickstart.py::test_runs_are_listed_for_people_and_for_scripts"
    ),
    "ltm-platform runs *": f"{HERE}/report/test_commands.py::test_runs_are_chosen_and_ordered",
    "ltm-platform compare *": (
        f"{HERE}/report/test_commands.py::test_compare_prints_what_differs_and_draws"
    ),
    "ltm-platform table": (
        f"{HERE}/report/test_commands.py::test_table_keeps_digits_apart_in_every_format"
    ),
    "ltm-platform evaluate *": (
        f"{E2E}/test_evaluate.py::test_one_worker_finds_what_two_found_and_other_ratios_come_with_it"
    ),
    "ltm-platform analyse *": (
        f"{HERE}/inference/test_analysis.py::test_it_is_logged_to_the_runs_and_printed"
    ),
    "ltm-platform pareto*": (
        f"{E2E}/test_reports.py::test_a_curve_over_ratios_is_logged_to_its_run"
    ),
    "ltm-platform export *": (
        f"{E2E}/test_reports.py::test_an_exported_network_says_what_predict_says"
    ),
    "ltm-platform predict*": (
        f"{E2E}/test_reports.py::test_an_exported_network_says_what_predict_says"
    ),
    "ltm-platform reconcile*": (
        f"{HERE}/report/test_commands.py::test_reconcile_has_nothing_to_do"
    ),
    "ltm-platform resume SWEEP": (
        f"{E2E}/test_tune.py::test_a_killed_sweep_goes_on_and_repeats_nothing"
    ),
    "ltm-platform resume * --from *": (
        f"{E2E}/test_faults.py::"
        "test_a_gradient_that_is_no_number_ends_the_run_and_a_lower_rate_goes_on"
    ),
    "ltm-platform resume *": (
        f"{E2E}/test_endings.py::test_ctrl_c_and_sigterm_keep_what_is_finished_and_resume_goes_on"
    ),
    "ltm-platform submit jobs/quickstart.yaml --name *": (
        f"{E2E}/test_evaluate.py::test_what_comes_from_one_base_at_one_budget"
    ),
    "ltm-platform completion *": (
        f"{HERE}/cli/commands/test_new.py::test_bash_completes_commands_options_jobs_and_runs"
    ),
    "ltm-platform new *": (
        f"{HERE}/cli/commands/test_new.py::test_three_options_make_a_job_that_is_valid"
    ),
    "ltm-platform jobs": (
        f"{HERE}/cli/commands/test_new.py::test_the_bundled_jobs_are_listed_with_their_budgets"
    ),
    "ltm-platform rm *": f"{HERE}/runs/test_removal.py::test_it_is_asked_first",
    "ltm-platform ui": (f"{E2E}/test_ui.py::test_the_ui_serves_the_runs_on_the_loopback_address"),
    "ltm-platform data *": (
        f"{HERE}/cli/commands/test_data.py::test_import_check_and_show_in_turn"
    ),
    "ltm-platform doctor": f"{HERE}/cli/test_commands.py::test_doctor_tells_what_to_type",
    "ltm-platform models": f"{E2E}/test_docs.py::test_models_prints_every_published_network",
    "ltm-platform models --backbones": (
        f"{E2E}/test_docs.py::test_models_shows_the_backbones_that_people_know"
    ),
    "ltm-platform models --methods": (
        f"{E2E}/test_docs.py::test_models_says_which_method_runs_where"
    ),
    "ltm-platform cluster * --local": (
        f"{E2E}/test_cluster.py::test_a_run_is_sent_followed_and_stopped_and_the_next_waits_for_it"
    ),
    "ltm-platform l[io][sg]*": (  # list, logs
        f"{E2E}/test_cluster.py::test_a_run_is_sent_followed_and_stopped_and_the_next_waits_for_it"
    ),
    "ltm-platform stop *": (
        f"{E2E}/test_cluster.py::test_a_run_is_sent_followed_and_stopped_and_the_next_waits_for_it"
    ),
    "ltm-platform tune * --detach": (
        f"{HERE}/ray_cluster/test_jobs_api.py::test_a_sweep_arrives_as_it_was_asked_for"
    ),
    "ltm-platform tune *": f"{E2E}/test_tune.py::test_a_killed_sweep_goes_on_and_repeats_nothing",
}
"""Which test runs a command: this one, or one with other values; the first pattern counts."""

NOT_RUN = {
    "make *": "it is what runs the tests; here its targets are looked up",
    "ltm-platform submit jobs/ltm_vit_b.yaml *": "needs ImageNet and a cluster; here the job loads",
    "ltm-platform cluster * cluster.yaml": "needs a cloud; the file fits Ray's schema by a test",
}
"""Why a command is run by no test."""

EXECUTED_BY = {
    "docs/api.md": f"{E2E}/test_api.py::test_the_example_of_the_documentation",
    "docs/library.md": "tests/ltm/test_library.py::test_an_example_works",
    "docs/extending.md": f"{E2E}/test_guides.py::test_a_verb_is_a_file_and_a_name",  # and others
}
"""Pages whose code other tests run."""


def first(table: dict[str, str], command: Command) -> str | None:
    """The first pattern of a table that a command fits."""
    return next((pattern for pattern in table if fnmatch(str(command), pattern)), None)


def shown(command: Command) -> str:
    return f"{command.page}: {command}"


# --- the tables


@pytest.mark.parametrize("command", COMMANDS, ids=shown)
def test_every_command_is_run_by_a_test_or_there_is_a_reason(command: Command) -> None:
    assert first(RUN_BY, command) or first(NOT_RUN, command)


def test_the_tables_have_no_line_without_a_command() -> None:
    used = {first(table, one) for one in COMMANDS for table in (RUN_BY, NOT_RUN)}
    assert {*RUN_BY, *NOT_RUN} - used == set()


@pytest.mark.parametrize("test", sorted({*RUN_BY.values(), *EXECUTED_BY.values()}))
def test_the_tests_that_run_them_exist(test: str) -> None:
    file, _, name = test.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# --- commands


@pytest.mark.parametrize("command", [one for one in OURS if one.words[1] != "cost"], ids=shown)
def test_a_command_is_understood(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options and arguments are those of the real commands, and the job and its overrides load."""
    monkeypatch.chdir(tmp_path)
    words = [_filled(word) for word in command.words[1:]]
    found: click.Command = cli
    context = click.Context(cli)
    while isinstance(found, click.Group) and not words[0].startswith("-"):
        _, next_found, words = found.resolve_command(context, words)
        assert next_found
        found = next_found
    if not words and command.words[1] in ("submit", "plan", "predict", "pareto"):
        return  # a sentence that names the verb
    if words == ["--help"]:
        with pytest.raises(click.exceptions.Exit):
            found.make_context(command.words[1], words)
        return
    values = found.make_context(command.words[1], words).params
    if "overrides" in values and "job" in values and str(command) not in MISTAKES:
        job = JobSpec.load(values["job"], values["overrides"])
        if command.words[1] == "tune":
            names = Sweep.__dataclass_fields__.keys() & values.keys() - {"job", "name"}
            read_stages(Sweep("", job.to_dict(), **{name: values[name] for name in names}))


MISTAKES = {
    "ltm-platform submit jobs/quickstart.yaml --set model.compression_ratio=1.5",
}


def _filled(word: str) -> str:
    """A word with something real for every placeholder."""
    for placeholder, value in PLACEHOLDERS.items():
        word = re.sub(rf"\b{re.escape(placeholder)}\b", value, word)
    return word


def test_a_mistake_is_answered_as_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (typed,) = MISTAKES
    prompt, answer = block("README.md", "", typed).splitlines()
    assert prompt == f"$ {typed}"
    with pytest.raises(SystemExit) as end:
        main(typed.split()[1:])
    assert end.value.code == 2
    assert capsys.readouterr().err.strip() == answer


@pytest.mark.slow
def test_models_prints_every_published_network(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models"])
    lines = capsys.readouterr().out.splitlines()
    for backbone in ("mobilevit_xs", "efficientvit_b1", "vit_s", "swin_b"):
        assert len([line for line in lines if backbone in line]) >= 2  # with and without merging


def test_models_says_which_method_runs_where(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "--methods"])
    cells = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert cells["tome"][1:] == [*["published"] * 2, *["ours"] * 5]
    assert cells["topk"][1:] == [*["published"] * 2, *["refused"] * 5]
    assert "keeps" in cells["topk:"]
    assert cells["s2vite"][1:3] == ["published", "refused"]


@pytest.mark.slow
def test_models_shows_the_backbones_that_people_know(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "--backbones"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in ("vit_small_patch16_dinov3", "swinv2_tiny_window8_256", "mobilevitv2_100"):
        (row,) = (row for row in rows if name in row)
        assert float(row[-1]) < float(row[-2])


class _Read(Exception):  # noqa: N818 - it ends a script where its work would begin
    pass


@pytest.mark.parametrize("command", SCRIPTS, ids=shown)
def test_the_arguments_of_a_script_are_read(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ROOT / command.words[1]
    if "parse_args" not in script.read_text():
        assert len(command.words) == 2
        return
    read = argparse.ArgumentParser.parse_args

    def then_end(parser: argparse.ArgumentParser, *args: object) -> None:
        read(parser, *args)
        raise _Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", then_end)
    monkeypatch.setattr(sys, "argv", [str(script), *command.words[2:]])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(_Read):
        runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("command", MAKES, ids=shown)
def test_make_has_the_target(command: Command) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *command.words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_scaling_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Every row that the script prints stands on the page."""
    runpy.run_path(str(ROOT / "benchmarks/scaling_table.py"), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| *\d", line)]
    page = (ROOT / "docs/scaling.md").read_text()
    assert rows
    assert [row for row in rows if row not in page] == []


# --- jobs, code and links

OTHER_YAML = {"cluster_name", "apiVersion"}
"""First keys of what is no job: tests/ltm_platform/ray_cluster/test_jobs_api.py reads those."""


@pytest.mark.parametrize(
    "example", [one for one in blocks() if one.language == "yaml"], ids=lambda one: one.page
)
def test_a_job_of_the_pages_loads(example: Block, tmp_path: Path) -> None:
    values = yaml.safe_load(example.text)
    if OTHER_YAML & values.keys():
        return
    file = tmp_path / "job.yaml"
    file.write_text(example.text + ("" if "extends" in values else "\nextends: quickstart\n"))
    job = JobSpec.load(file)
    for section in values.keys() - {"extends"}:
        assert job.where(section) != "default"


JOBS = [
    one
    for one in blocks()
    if one.language == "yaml" and not OTHER_YAML & yaml.safe_load(one.text).keys()
]


@pytest.mark.parametrize("example", JOBS, ids=lambda one: one.page)
def test_a_job_of_the_pages_costs_what_the_page_says(example: Block, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    extends = "" if "extends" in yaml.safe_load(example.text) else "\nextends: quickstart\n"
    file.write_text(example.text + extends)
    job = JobSpec.load(file)
    assert not [notice for notice in check_job(job) if " px: " in notice]
    stated = re.findall(r"#.*?([\d.]+) GMACs", example.text)
    assert stated or "model" not in yaml.safe_load(example.text), "say its GMACs in a comment"
    for figure in stated:
        with torch.device("meta"):
            model = create_model(job.replace("model.checkpoint", None), _classes(job))
            assert ltm.count(model).gmacs == pytest.approx(float(figure), rel=0.01)


def test_the_readmes_job_is_a_whole_vit_b_and_saves_what_it_says() -> None:
    (example,) = (one for one in JOBS if one.page == "README.md")
    job = JobSpec.load("ltm_vit_b", ["model.method=none"])
    with torch.device("meta"):
        base = ltm.count(create_model(job, 1000)).gmacs
    assert base == pytest.approx(17.6, rel=0.01)  # arXiv 2407.15219, table 1
    assert "14.1 GMACs in place of 17.6" in example.text


@pytest.mark.parametrize("command", [one for one in OURS if one.words[1] != "cost"], ids=shown)
def test_a_command_of_the_pages_trains_at_the_backbones_own_size(command: Command) -> None:
    words = [_filled(word) for word in command.words]
    jobs = [word for word in words[2:] if word.startswith("jobs/") or word == "quickstart"]
    if not jobs or str(command) in MISTAKES:
        return
    overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert not [one for one in check_job(JobSpec.load(jobs[0], overrides)) if " px: " in one]


def _classes(job: JobSpec) -> int:
    return 10 if job.data.path == "digits" else 1000


NOT_EXECUTED = {
    "import mlflow": "needs a run; the same calls are in tests/e2e/test_quickstart.py",
    "ltm.beside(": "needs trained models; tests/ltm/views/test_heatmaps.py calls it",
}
CODE = [one for one in blocks() if one.language == "python" and one.page not in EXECUTED_BY]


@pytest.mark.parametrize("example", CODE, ids=lambda one: f"{one.page}: {one.text[:20]!r}")
def test_code_of_the_pages_runs(example: Block) -> None:
    tree = compile(example.text, example.page, "exec")
    if not any(words in example.text for words in NOT_EXECUTED):
        exec(tree, {"__name__": "example"})


def test_code_that_is_not_executed_is_still_there() -> None:
    for words in NOT_EXECUTED:
        assert len([one for one in CODE if words in one.text]) == 1
