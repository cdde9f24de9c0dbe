"""Entry point of the ``steelyard`` command: the group, its lazy subcommands and the exit codes."""

import sys
from importlib import import_module
from typing import NamedTuple

import click

from steelyard.harness.core.errors import UserError, unknown


class Subcommand(NamedTuple):
    """Module of a subcommand and the first line of its help, known without the import."""

    module: str
    summary: str


COMMANDS = {
    "demo": Subcommand("run", "Run both tracks on generated data and print the boards."),
    "run": Subcommand("run", "Train and evaluate a suite, or one method."),
    "train": Subcommand("run", "Train without evaluation; evaluate later."),
    "evaluate": Subcommand("evaluate", "Score MODEL on task VARIANTS."),
    "answers": Subcommand("evaluate", "Export a run's answers as JSON lines."),
    "tune": Subcommand("tune", "Try settings of every entry and choose on validation items."),
    "leaderboard": Subcommand("leaderboard", "Write tables and plots from records."),
    "compare": Subcommand("leaderboard", "Compare two run folders, or two entries of a board."),
    "show": Subcommand("list", "Print one run: costs, scores and sources."),
    "list": Subcommand("list", "List methods, tasks, corruptions, backbones, budgets or suites."),
    "diagnose": Subcommand("diagnose", "Profile how much MODEL relies on each modality."),
    "factors": Subcommand("factors", "Vary one factor of modality bias and plot its effect."),
    "check": Subcommand("data", "Check a dataset folder before training on it."),
    "data": Subcommand("data", "Show how to get a data set, or convert a copy of it."),
    "corruptions": Subcommand("corruptions", "Draw every image corruption at every severity."),
    "validate": Subcommand("validate", "Check records: hashes, scores, ledgers, seeds, tuning."),
    "reproduce": Subcommand("reproduce", "Run a record again and compare scores and costs."),
}


class _LazyGroup(click.Group):
    """Group that imports a subcommand when it is called; unknown names get a did-you-mean."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"steelyard.harness.cli.{COMMANDS[cmd_name].module}")
        members = vars(module).values()
        return next(m for m in members if isinstance(m, click.Command) and m.name == cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    # click would import every command for its first line of help: a second instead of 0.1 s.
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="steelyard")
def cli() -> None:
    """Benchmark methods for modality imbalance under one fixed compute budget.

    \b
    Examples:
      steelyard demo --quick                  a first look, about a minute
      steelyard demo                          all methods on one data set, with boards
      steelyard run world                     three data sets, five seeds
      steelyard run joint --task mm_imdb --seeds 0-4
      steelyard list methods

    \b
    Exit codes:
      0    finished; a run that fails is in its record and on the board
      1    check, validate or reproduce found a problem
      2    mistake in the command or its files, one line says which
      130  interrupted; finished runs are kept, the same command continues
    """


def main() -> None:
    """Run the command; a UserError is one line, a bug keeps its traceback."""
    try:
        cli(standalone_mode=False)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; finished runs are kept: the same command continues", err=True)
        sys.exit(130)
