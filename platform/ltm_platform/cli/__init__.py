"""The command line: `app` is its entry, `commands` has one file a subcommand."""
