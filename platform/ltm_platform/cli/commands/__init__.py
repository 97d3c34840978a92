"""One file a subcommand: each parses its words, calls one function and prints what it returns."""
