"""Entry point of the ``steelyard`` command: the group of all commands and the exit codes."""

import atexit
import gc
import io
import signal
import sys
import traceback
from typing import NoReturn

import click

from steelyard.harness.cli.assemble import assemble
from steelyard.harness.cli.corruptions import corruptions
from steelyard.harness.cli.data import check, data
from steelyard.harness.cli.diagnose import diagnose
from steelyard.harness.cli.evaluate import answers, evaluate
from steelyard.harness.cli.factors import factors
from steelyard.harness.cli.leaderboard import compare, leaderboard
from steelyard.harness.cli.list import list_, show
from steelyard.harness.cli.pack import pack
from steelyard.harness.cli.plan import plan, prepare
from steelyard.harness.cli.reproduce import reproduce
from steelyard.harness.cli.run import demo, run, train
from steelyard.harness.cli.score import items, score
from steelyard.harness.cli.tune import tune
from steelyard.harness.cli.validate import validate
from steelyard.harness.cli.work import status, work
from steelyard.harness.core import ranks
from steelyard.harness.core.errors import RunFailed, UserError, unknown
from steelyard.harness.core.progress import echo
from steelyard.harness.core.startup import Output, explain_import, ignore_signals, start_process

WITH_RANKS = ("run", "train", "evaluate")
"""Commands that torchrun may start as several processes."""


class _Group(click.Group):
    """Group that keeps the order of its commands; an unknown name gets a did-you-mean."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        if ranks.world() > 1 and args and args[0] not in WITH_RANKS:
            raise UserError(
                f"torchrun started {ranks.world()} processes, and '{args[0]}' is one: start it "
                f"without; torchrun is for {', '.join(WITH_RANKS)}."
            )
        return super().resolve_command(ctx, args)

    # click would cut long lines.
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(cmd)) for name, cmd in self.commands.items()])


def summary(command: click.Command) -> str:
    """Return the first line of a command's help."""
    return (command.help or "").strip().partition("\n")[0]


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
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
      0    all that was asked for is done
      1    a run or trial failed, for the reason in its record and on the board, and the others are
           done; or check, validate or reproduce found a problem
      2    mistake in the command or its files, one line says which
      75   a worker was ended before all was done; the same command goes on
      130  interrupted; finished runs are kept, the same command continues
    """


for command in (demo, run, train, plan, prepare, work, status, evaluate, answers, items, score,
                tune, leaderboard, compare, show, list_, diagnose, factors, check, data, assemble,
                corruptions, validate, pack, reproduce):  # fmt: skip
    command.epilog = "Exit codes: see steelyard --help."
    cli.add_command(command)


def main() -> None:
    """Run the command; a UserError is one line, a bug keeps its traceback."""
    # As Ctrl-C, so that temporary files are removed and processes ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A last search for garbage among torch's objects would take part of a second.
    atexit.register(gc.freeze)
    try:
        start_process()
        ranks.connect()
        # Else click ends the process itself, with code 1 when interrupted.
        cli(standalone_mode=False)
        sys.stdout.flush()
        if Output.failure:
            echo(f"error: could not write standard output: {Output.failure}", error=True)
            sys.exit(1)
        ranks.close()
    except (UserError, RunFailed) as error:
        _end(f"error: {error}", 2 if isinstance(error, UserError) else 1)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        _end(text.getvalue().rstrip(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        echo("\ninterrupted; finished runs are kept: the same command continues", error=True)
        sys.exit(130)
    except Exception as error:
        reason = explain_import(error)
        if not reason and ranks.world() == 1:
            raise
        _end(f"error: {reason}" if reason else traceback.format_exc(), 2 if reason else 1)
    finally:
        atexit.register(ignore_signals)  # last, so that it is called first


def _end(text: str, code: int) -> NoReturn:
    """Say why the command ends, and end it."""
    ranks.meet(text)
    echo(text, error=True)
    ranks.meet(text)  # torchrun ends all ranks with the first one that ends
    sys.exit(code)
