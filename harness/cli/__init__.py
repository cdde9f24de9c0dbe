"""The ``steelyard`` command, one file per subcommand or per family of subcommands."""
