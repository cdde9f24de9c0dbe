"""The steelyard command: one file per subcommand."""
