"""The ``steelyard`` command: thin calls of one function each; heavy imports wait until needed."""

import atexit
import gc
import sys
from pathlib import Path
from typing import Any

import click

from steelyard.harness.cli import cli_data, cli_results
from steelyard.harness.cli.options import RUNS, run_options
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.files import write_atomic
from steelyard.harness.records.budget import TRACKS

BOARD = Path("board")
DIAGNOSIS = Path("diagnosis")
FACTORS = Path("factors")


class _Group(click.Group):
    """A command group whose unknown commands get a did-you-mean."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a bug keeps its traceback."""
    atexit.register(gc.freeze)  # or a last search for garbage goes through all that was read
    try:
        cli(standalone_mode=False)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; what is finished is kept: type the same command again", err=True)
        sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="steelyard")
def cli() -> None:
    """Weigh methods against modality imbalance under one counted compute budget.

    \b
    Examples:
      steelyard demo --quick                  a first look, about a minute
      steelyard demo                          every method on one data set, with a board
      steelyard run world                     three data sets, five seeds
      steelyard run joint --task mm_imdb --seeds 0-4
      steelyard list methods
    """


@cli.command()
@click.argument("target")
@run_options
def run(target: str, runs: Path, **given: Any) -> None:
    """Train and evaluate a suite, or one method: TARGET is a name or a file.

    \b
    Examples:
      steelyard run demo
      steelyard run my_suite.yaml --jobs 4
      steelyard run mine.py --set amount=0.2 --corruption image-blank
      steelyard run joint --task food101 --data-root ~/food101 --method mine.py
    """
    from steelyard.harness.cli import console as commands

    if commands.run_suites(commands.suites_from(target, given), runs, given):
        every = " --track anytime" if given["track"] == "anytime" else ""
        click.echo(f"Next: steelyard leaderboard {runs}{every}")


@cli.command()
@click.argument("target")
@run_options
def train(target: str, runs: Path, **given: Any) -> None:
    """Train only; evaluate later with ``steelyard evaluate``.

    \b
    Example:
      steelyard train joint --task hateful_memes --seeds 0
    """
    from steelyard.harness.cli import console as commands

    given["corruptions"] = ()
    commands.run_suites(commands.suites_from(target, given), runs, given, evaluate=False)


@cli.command()
@click.argument("model")
@click.argument("variants", nargs=-1)
@click.option("--out", type=Path, help=f"Folder of a model's record [default: {RUNS}].")
@click.option(
    "--backbone-set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of a model, for example precision=bf16.",
)
@click.option(
    "--include-path",
    multiple=True,
    type=Path,
    metavar="DIR",
    help="Folder of your own lmms-eval task files.",
)
@click.option("--data-root", multiple=True, metavar="[TASK=]DIR", help="Folder of a task's data.")
@click.option(
    "--data-set",
    multiple=True,
    metavar="[TASK.]KEY=VALUE",
    help="Loader option, for example pope.source=gqa.",
)
@click.option("--max-bad", default=0.01, show_default=True, help="Share of unusable rows allowed.")
@click.option("--limit", type=int, help="Evaluate this many items.")
@click.option("--device", default="auto", show_default=True)
def evaluate(model: str, variants: tuple[str, ...], out: Path | None, **given: Any) -> None:
    """Score MODEL on task VARIANTS: a run's folder, a preset, a hub id or a path.

    Scores are added to the run's record, or to one made for a model as it is. A variant is
    TASK or TASK@CORRUPTION[:SEVERITY], of our tasks or of any of lmms-eval's that has an image;
    'stock/pope' means lmms-eval's where both have the name.

    \b
    Examples:
      steelyard evaluate runs/joint-food101-tiny-S-s0-1a2b3c4d food101@image-noise:1-5
      steelyard evaluate tiny-vlm pope pope@image-blank
      steelyard evaluate Qwen/Qwen2-VL-2B-Instruct mmstar mmstar@image-shuffle \\
          --backbone-set precision=bf16
    """
    from steelyard.harness.cli import evaluate as asking

    asking.evaluate(model, variants, out, **given)


@cli.command()
@click.argument("folder", type=Path)
@click.argument("variant")
@click.option("--data-root", type=Path, metavar="DIR", help="Folder of the task's data.")
@click.option("--max-bad", default=0.01, show_default=True, help="Share of unusable rows allowed.")
@click.option("--out", type=Path, metavar="FILE", help="File to write [default: print].")
def answers(folder: Path, variant: str, out: Path | None, **given: Any) -> None:
    """Write what the run in FOLDER answered, a JSON line an item, for a judge of your own.

    A judge's file of id, answer and verdict goes back in by a loader option of the task.

    \b
    Examples:
      steelyard answers runs/RUN mmhal --out answers.jsonl
      steelyard evaluate tiny-vlm mmhal --data-set ratings=rated.jsonl --out judged
    """
    from steelyard.harness.cli import judging

    text = judging.as_text(judging.lines(folder, variant, given["data_root"], given["max_bad"]))
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomic(out, text)


@cli.command()
@click.argument("model")
@click.option(
    "--tasks",
    multiple=True,
    metavar="TASK,TASK",
    help="What to ask [default: prior_conflict,pope,vqa; of a classifier its own task].",
)
@click.option(
    "--data-root",
    multiple=True,
    metavar="[TASK=]DIR",
    help="Folder of a task's data; without it a world is generated.",
)
@click.option(
    "--data-set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Loader option, for example questions=pope_official_subset.jsonl.",
)
@click.option("--max-bad", default=0.01, show_default=True, help="Share of unusable rows allowed.")
@click.option("--limit", type=int, default=500, show_default=True, help="Items a task.")
@click.option("--split", default="test", show_default=True, help="Items to ask about.")
@click.option(
    "--draws",
    type=int,
    default=5,
    show_default=True,
    help="How often a side is replaced by another item's.",
)
@click.option(
    "--backbone-set",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of a model, for example precision=bf16.",
)
@click.option(
    "--out",
    type=Path,
    default=DIAGNOSIS,
    show_default=True,
    help="Folder of the profile; answers in it are not asked for again.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1.")  # fmt: skip
def diagnose(model: str, out: Path, **given: Any) -> None:
    """Say what MODEL relies on: a run's folder, a preset, a hub id or a path. Trains nothing.

    Every item is asked with image and text, with either alone and with neither, blanked and with
    another item's; the profile is a page, a picture, CSV and JSON, with intervals.

    \b
    Examples:
      steelyard diagnose tiny-vlm
      steelyard diagnose runs/joint-food101-tiny-S-s0-1a2b3c4d --out joint
      steelyard diagnose Qwen/Qwen2-VL-2B-Instruct --tasks pope --data-root ~/POPE \\
          --backbone-set precision=bf16
    """
    from steelyard.harness.cli import diagnose as command

    command.diagnose(model, out, given)


@cli.command()
@click.argument("factor", metavar="data|backbone|objective")
@click.option("--vlm", is_flag=True, help="On the small vision-language model, not a classifier.")
@click.option("--quick", is_flag=True, help="One seed, budget XS, the ends of each knob.")
@click.option("--seeds", help="For example 0-2 [default: as the suite says].")
@click.option("--budget", help="XS, S, M, L or a number of FLOPs [default: as the suite says].")
@click.option("--limit", type=int, default=500, show_default=True, help="Test items a task.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Runs at a time.")
@click.option(
    "--out",
    type=Path,
    default=FACTORS,
    show_default=True,
    help="Folder of models, answers and pages.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1.")  # fmt: skip
def factors(factor: str, out: Path, **given: Any) -> None:
    """Vary one factor of modality bias at a time on the generated world, and plot its effect.

    data: how strong habits are and how often the text repeats the picture. backbone: how large
    the language side is against the vision side. objective: how it is trained.

    \b
    Examples:
      steelyard factors data --quick
      steelyard factors backbone --seeds 0-4
      steelyard factors objective --vlm
    """
    from steelyard.harness.cli import factors as bias_factors

    bias_factors.factors(factor, out, given)


@cli.command()
@click.argument("folders", nargs=-1, type=Path)
@click.option("--out", type=Path, default=BOARD, show_default=True, help="Folder to write.")
@click.option(
    "--control",
    help="Entry that differences are taken against [default: joint, or sft].",
)
@click.option("--backbone", help="Only runs of this backbone.")
@click.option("--budget", help="Only runs of this budget.")
@click.option("--track", type=click.Choice((*TRACKS, "both")),
              help="Only runs of this track; anytime shows scores over budgets, both how ranks "
              "change from equal data to equal compute.")  # fmt: skip
@click.option("--html", is_flag=True, help="Also index.html: one page, no server needed.")
@click.option("--jobs", type=int, help="Processes at most [default: CPU cores].")
def leaderboard(folders: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Turn records into boards: tables (Markdown, CSV, JSON, LaTeX) and plots (PNG, SVG).

    \b
    Examples:
      steelyard leaderboard
      steelyard leaderboard runs other_runs --out board --html
    """
    from steelyard.harness.cli import leaderboard as board_commands

    board_commands.boards(folders or (RUNS,), out, **given)


@cli.command()
@click.argument("one")
@click.argument("other")
@click.option("--runs", "folders", multiple=True, type=Path, metavar="DIR",
              help=f"Where entries are looked up [default: {RUNS}].")  # fmt: skip
@click.option("--variant", "variants", multiple=True, default=("clean",), show_default=True,
              help="A variant that both were scored on, or all; may be repeated.")  # fmt: skip
@click.option("--task", help="Only runs trained on this task.")
@click.option("--backbone", help="Only runs of this backbone.")
@click.option("--budget", help="Only runs of this budget.")
def compare(one: str, other: str, folders: tuple[Path, ...], **given: Any) -> None:
    """Compare two run folders, or two entries of a board over their seeds.

    Prints the difference paired by seed and item with its interval, and McNemar's exact test.

    \b
    Examples:
      steelyard compare runs/joint-food101-tiny-S-s0-1a2b3c4d runs/mine-food101-tiny-S-s0-5e6f7a8b
      steelyard compare joint mine --runs runs --variant all
    """
    from steelyard.leaderboards.boards import compare as comparison

    comparison.show(one, other, folders or (RUNS,), **given)


@cli.command("list")
@click.argument("kind", metavar="methods|tasks|corruptions|backbones|budgets|suites")
def list_(kind: str) -> None:
    """Say what there is: methods, tasks, corruptions, backbones, budgets or suites.

    \b
    Example:
      steelyard list methods
    """
    from steelyard.harness.cli import list as listing

    listing.print_list(kind)


@cli.command()
@click.option("--image", type=Path, help="A picture of yours [default: a generated scene].")
@click.option("--out", type=Path, default="contact_sheet.png", show_default=True,
              help="The sheet to write.")  # fmt: skip
def corruptions(image: Path | None, out: Path) -> None:
    """Picture every image corruption at every severity, and print those of a text.

    \b
    Example:
      steelyard corruptions --image photo.jpg --out sheet.png
    """
    from steelyard.harness.cli import corruptions as contact_sheet
    from steelyard.harness.core.progress import console

    console.print(contact_sheet.make(image, out), highlight=False)
    click.echo(f"Pictures in {out}; image-adversarial is made by the model that is scored.")


@cli.command()
@click.argument("folder", type=Path)
def show(folder: Path) -> None:
    """Print one run: what was run, what it cost, what it scored, where it comes from.

    \b
    Example:
      steelyard show runs/joint-food101-tiny-S-s0-1a2b3c4d
    """
    from steelyard.harness.cli import list as listing

    listing.show(folder)


@cli.command()
@click.option("--quick", is_flag=True, help="One seed, four methods: about a minute.")
@click.option("--runs", type=Path, default=RUNS, show_default=True, help="Folder of runs.")
@click.option("--out", type=Path, default=BOARD, show_default=True, help="Folder of the board.")
@click.option("--jobs", type=int, help="Runs at a time [default: CPU cores].")
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost, then stop.")
def demo(quick: bool, runs: Path, out: Path, **given: Any) -> None:
    """Both tracks on generated data: classifiers and a vision-language model, with boards.

    \b
    Examples:
      steelyard demo
      steelyard demo --quick
    """
    from steelyard.harness.cli import console as commands

    name = "quick" if quick else "demo"
    commands.demo(name, runs / name, out, given)


for command in (*cli_data.COMMANDS, *cli_results.COMMANDS):
    cli.add_command(command)
