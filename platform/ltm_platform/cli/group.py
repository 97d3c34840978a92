"""A command that has commands of its own."""

from __future__ import annotations

import click

from ltm_platform.errors import UserError, nearest


class Group(click.Group):
    """For a command that there is not, it names the nearest that there is."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(context)
        if args[0] not in names and not args[0].startswith("-"):
            _, *path = context.command_path.split()
            raise UserError(
                f"there is no command {' '.join([*path, args[0]])!r}{nearest(args[0], names)} "
                f"(allowed: {', '.join(names)})"
            )
        return super().resolve_command(context, args)
