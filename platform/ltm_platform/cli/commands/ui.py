"""``ltm-platform ui``: compare runs in the browser."""

from __future__ import annotations

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
    from ltm_platform.storage import locations, permissions

    uri = tracking.tracking_uri(tracking_uri)
    if uri.startswith("http"):
        click.echo(f"The runs are on a server already: open {locations.shown(uri)}")
        return
    permissions.make_folder(locations.home())
    tracking.connect_meanwhile(uri)
    with tracking.serving_ui(uri, host, port, locations.home() / "ui.log") as server:
        address = f"http://{host}:{port}"
        page = tracking.runs_page(uri, address)
        runs = locations.shown(uri)
        click.echo(f"MLflow UI on {address} (runs of {runs}); Ctrl-C closes it")
        if page:
            click.echo(f"the runs, the best first: {page}")
        try:
            server.wait()
        except KeyboardInterrupt:
            click.echo("closed")
