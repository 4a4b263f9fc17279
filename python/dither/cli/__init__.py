"""The `dither` command: one file a subcommand, dispatched by `dither.cli.main`."""
