"""``ltm-platform ui``: compare runs in the browser."""

from __future__ import annotations

import subprocess

import click

from ltm_platform.cli import options


@click.command("ui")
@options.tracking_uri
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, help="Port to listen on.")
def command(tracking_uri: str | None, host: str, port: int) -> None:
    """Open the MLflow UI on the runs of this user; Ctrl-C closes it.

    \b
    Example:
      ltm-platform ui --port 5001
    """
    from ltm_platform import tracking

    uri = tracking.tracking_uri(tracking_uri)
    if uri.startswith("http"):
        click.echo(f"The runs are on a server already: open {uri}")
        return
    click.echo(f"MLflow UI on http://{host}:{port} (runs of {uri}); Ctrl-C closes it")
    server = subprocess.Popen(tracking.ui_command(uri, host, port))
    try:
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return
    raise SystemExit(code)
