"""Commands of a plan's runs: work and status."""

import re
import sys
from pathlib import Path

import click

from steelyard.harness.cli.options import output_folder
from steelyard.harness.core.environment import pick_device
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import user_path
from steelyard.harness.core.progress import console, echo
from steelyard.harness.runs import plan as plans
from steelyard.harness.runs.options import DEVICE, RUNS
from steelyard.harness.runs.status import as_json, states, view

UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Read ``230m``, ``3h`` or ``90s``."""
    if text is None:
        return None
    if (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)) is None:
        raise UserError(f"--until {text}: write 230m, 3h or 90s.")
    return float(match[1]) * UNITS[match[2]]


@click.command()
@click.argument("file", type=user_path, metavar="PLAN")
@click.option("--runs", type=user_path, default=RUNS, show_default=True, callback=output_folder,
              help="Folder of runs, the same for all workers.")  # fmt: skip
@click.option("--until", callback=_seconds, metavar="TIME",
              help="Time after which to end, such as 230m: less than the scheduler's limit."
              )  # fmt: skip
@click.option("--cells", metavar="LIST", help="Cells to run, such as 3,7-9 [default: all].")
@click.option("--share", metavar="K/N", help="Run every N-th cell alone, from the K-th.")
@click.option("--device", default="auto", show_default=True, help=f"{DEVICE.text}.")
def work(
    file: Path,
    runs: Path,
    until: float | None,
    cells: str | None,
    share: str | None,
    device: str,
) -> None:
    """Run the runs of a plan that no other worker runs, until none is left.

    Start as many workers as there are GPUs, on all machines that see the folder of runs, by any
    scheduler. A run whose worker died is taken over two minutes later. SIGTERM, SIGUSR1 and --until
    end a worker at the next step with exit code 75, and the same command goes on.

    \b
    Examples:
      steelyard work plan.json
      steelyard work plan.json --runs /shared/runs --until 230m
      steelyard work plan.json --cells 3,7-9
    """
    # Imported here, because help must be fast.
    from steelyard.harness.runs.work import Stop
    from steelyard.harness.runs.work import work as run_cells

    plan = plans.read(file)
    indices = plans.select(len(plan.cells), cells, share)
    runs = runs.absolute()
    plans.enter(plan)
    stop = Stop(until)
    stop.listen()
    sys.exit(run_cells(plan, indices, runs, pick_device(device), stop))


@click.command()
@click.argument("file", type=user_path, metavar="PLAN")
@click.option("--runs", type=user_path, default=RUNS, show_default=True, metavar="PATH",
              help="Folder of runs.")  # fmt: skip
@click.option("--json", "is_json", is_flag=True, help="Print the state of each run as JSON.")
def status(file: Path, runs: Path, is_json: bool) -> None:
    """Say which runs of a plan are done, run, failed or wait, and the time left.

    \b
    Examples:
      steelyard status plan.json
      steelyard status plan.json --runs /shared/runs --json
    """
    plan = plans.read(file)
    cells = states(plan, range(len(plan.cells)), runs)
    if is_json:
        echo(as_json(plan, cells))
    else:
        console.print(view(plan, cells))
