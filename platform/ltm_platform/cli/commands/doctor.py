"""``ltm-platform doctor``: whether this machine is fine."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one a finding.")
def command(as_json: bool) -> None:
    """Show versions, GPUs, NCCL, compiler, Ray, MLflow and storage: what is not fine, and what to
    type. Ends with exit code 1 if anything is not.

    \b
    Example:
      ltm-platform doctor
    """
    from ltm_platform.checks.doctor import examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            mark = "ok " if finding.fine else "NOT"
            click.echo(f"{mark}  {finding.what:<12} {finding.found}")
            if not finding.fine and finding.remedy:
                click.echo(f"     {'':<12} -> {finding.remedy}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if not all(finding.fine for finding in findings):
        raise click.exceptions.Exit(1)
