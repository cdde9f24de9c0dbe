"""The small vision-language model of pretrained parts on real photos: trained, audited, scored."""

from pathlib import Path

import pytest
import real_rows
import torch
from click.testing import CliRunner
from paths import SHARED, require_models
from safetensors.torch import load_file

from steelyard.harness.cli.main import cli
from steelyard.harness.models.assembled import located
from steelyard.harness.records import record

pytestmark = [pytest.mark.real, pytest.mark.heavy]

SMALL = "dinov2-smollm2"
PROJECTOR = "multi_modal_projector.linear_1.weight"
SETTINGS = {"mbpo": ("--set", "group=4", "--set", "steps=2", "--set", "filters=same")}
"""A model that is untrained answers in sentences, which MBPO's other filters drop."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments that name training rows and questions about other photos."""
    require_models(SMALL)
    genome, coco = SHARED / "vg_vqa_mini", SHARED / "coco_mini"
    if not genome.is_dir() or not coco.is_dir():
        pytest.skip("no shared/data/vg_vqa_mini and coco_mini beside the repository")
    rows = tmp_path_factory.mktemp("rows")
    real_rows.write(genome, rows, photos=12)
    roots = (f"instruct={rows}", f"pope={coco}")
    return [word for root in roots for word in ("--data-root", root)]


@pytest.mark.parametrize("method", ["sft", "dpo", "mcr", "mbpo"])
def test_each_kind_of_method_trains_it(method: str, data: list[str], tmp_path: Path) -> None:
    words = f"run {method} --backbone {SMALL} --task instruct --evaluate pope --limit 4"
    options = "--backbone-set batch_size=8 --track data --budget 16 --device cpu --jobs 1"
    arguments = [*words.split(), *options.split(), *data, *SETTINGS.get(method, ())]
    arguments += ["--runs", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    (path,) = record.find(tmp_path)
    run = record.read(path)
    assert run.status == "done", (run.failure, result.output)
    assert run.ledger.steps >= 2 and run.ledger.audited and run.ledger.unposted < 0.01
    assert {score.task for score in run.scores} == {"instruct", "pope"}
    adapter = load_file(next(tmp_path.glob("*/weights/adapter/adapter_model.safetensors")))
    (name,) = (name for name in adapter if name.endswith(PROJECTOR))
    start = load_file(Path(located(SMALL)) / "model.safetensors")
    (before,) = (start[name] for name in start if name.endswith(PROJECTOR))
    assert not torch.equal(adapter[name].float(), before)
