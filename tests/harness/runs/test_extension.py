"""Modules of a method's own: trained, saved and scored, or refused before the budget is spent."""

import re
from pathlib import Path

import pytest
import tiny_vlms
import torch
from command import Command
from paths import ROOT
from safetensors.torch import load_file, save_file

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.files import file_hash
from steelyard.harness.models import classifier, registry, vlm_build, vlm_config
from steelyard.harness.models.extension import Extension, changed_parts, extend, layout
from steelyard.harness.records import record

GATE = re.search(
    r"<!-- method: gate.py -->\n```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S
)
assert GATE
GUIDE = GATE.group(1)
WITHOUT_EXTEND = GUIDE.replace("def extend(", "def build(")
ON_VLM = """
from torch import nn
from steelyard.methods import NoOptions as Config

class Adapter(nn.Module):
    def __init__(self, projector, width):
        super().__init__()
        self.projector, self.change = projector, nn.Linear(width, width)

    def forward(self, features):
        tokens = self.projector(features)
        return tokens + self.change(tokens)

def extend(backbone, config):
    model = backbone.base.model
    model.multi_modal_projector = Adapter(model.multi_modal_projector, backbone.width)
"""


def run(
    steelyard: Command, world: Path, folder: Path, text: str, frozen: bool = False
) -> record.Record:
    """Train a method file for some ten steps and score it on clean items."""
    (folder / "gate.py").write_text(text)
    words = ["run", str(folder / "gate.py"), "--data-root", str(world / "food101")]
    words += ["--budget", "5e9", "--limit", "8", "--device", "cpu", "--runs", str(folder / "runs")]
    words += ["--jobs", "0", "--corruption", "image-blank"]
    if frozen:
        words += ["--backbone-set", "frozen=true"]
    steelyard(*words)
    (path,) = record.find(folder / "runs")
    return record.read(path)


def test_the_guides_gate_is_scored_as_it_was_trained(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    assert len([line for line in GUIDE.splitlines() if line]) <= 30
    done = run(steelyard, world, tmp_path, GUIDE)
    assert done.status == "done" and done.ledger.steps > 5
    weights = tmp_path / "runs" / done.id / registry.WEIGHTS
    file = weights / classifier.WEIGHTS_FILE
    loaded = registry.load(weights, "cpu")
    saved = load_file(file)
    assert torch.equal(loaded.state_dict()["fusion.gate.weight"], saved["fusion.gate.weight"])
    assert steelyard("evaluate", str(tmp_path / "runs" / done.id), "food101@text-blank",
                     "--data-root", str(world / "food101")).code == 0  # fmt: skip

    save_file({n: w for n, w in saved.items() if n != "fusion.gate.weight"}, file)
    with pytest.raises(UserError, match=r"fusion\.gate\.weight is not in the file"):
        registry.load(weights, "cpu")
    (tmp_path / "gate.py").write_text(GUIDE + "# changed\n")
    with pytest.raises(UserError, match=r"gate\.py builds a part of this model and has changed"):
        registry.load(weights, "cpu")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("build(backbone, config); meter.watch(backbone.fusion)", "fusion is another"),
        ("old = backbone.predict; backbone.predict = lambda b: 2 * old(b)", "predict is new"),
        ("fusion = backbone.fusion; fusion.forward = lambda a, b: fusion.output(a * b)",
         "fusion.forward is new"),
        ("backbone.missing.requires_grad_(True)", "missing.image is another"),
    ],
)  # fmt: skip
def test_what_scoring_would_lack_fails_after_one_step(
    steelyard: Command, world: Path, tmp_path: Path, change: str, finding: str, frozen: bool
) -> None:
    text = WITHOUT_EXTEND.replace("    fit(", f"    {change}\n    fit(")
    done = run(steelyard, world, tmp_path, text, frozen)
    assert done.status == "failed" and done.ledger.steps == 1 and not done.scores
    assert finding in done.failure and "do it in a function extend" in done.failure


def test_a_hook_that_scoring_would_lack_fails_the_run(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    """It cannot be told from the harness's own hooks, but by the predictions of saved weights."""
    hook = "backbone.fusion.register_forward_hook(lambda module, inputs, logits: 3 * logits)"
    done = run(
        steelyard, world, tmp_path, WITHOUT_EXTEND.replace("    fit(", f"    {hook}\n    fit(")
    )
    assert done.status == "failed" and not done.scores and "by a hook" in done.failure
    assert not (tmp_path / "runs" / done.id / registry.WEIGHTS).exists()


def test_modules_that_differ_each_time_are_refused_before_training(
    steelyard: Command, world: Path, tmp_path: Path
) -> None:
    """A plain attribute is neither saved nor a part of the module's state."""
    text = GUIDE.replace(
        "        weight = torch.sigmoid(",
        "        weight = (id(self) % 97) * torch.sigmoid(",
    )
    (tmp_path / "gate.py").write_text(text)
    done = steelyard(
        "run", str(tmp_path / "gate.py"), "--data-root", str(world / "food101"), "--jobs", "0",
        "--device", "cpu", "--runs", str(tmp_path / "runs"),
    )  # fmt: skip
    assert done.code == 2 and "does not build the same modules twice" in done.stderr
    assert not record.find(tmp_path / "runs")


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_vlm_is_saved_with_its_further_modules(tmp_path: Path, tune: str) -> None:
    path = tmp_path / "adapter.py"
    path.write_text(ON_VLM)
    folder = tiny_vlms.make("llava", tmp_path / "llava")
    config = vlm_config.configure(str(folder), {"tune": tune})
    model = vlm_build.build("x", config, seed=0, device="cpu")
    extend(model, Extension(str(path), file_hash(path), {}, seed=1))
    with torch.no_grad():
        for index, weight in enumerate(p for p in model.parameters() if p.requires_grad):
            weight += 0.05 * torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(index)
            )
    registry.save(model, tmp_path / "run")
    loaded = registry.load(tmp_path / "run", "cpu")
    inputs = [Inputs(None, "is there a fish ?", "is there a fish ?")]
    assert torch.equal(loaded.answer(inputs, ("yes", "no")), model.answer(inputs, ("yes", "no")))
    states = zip(loaded.state_dict().items(), model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)


@pytest.mark.parametrize("name", ["ref", "start"])
def test_a_second_adapter_is_no_change_of_what_is_scored(tmp_path: Path, name: str) -> None:
    source = str(tiny_vlms.make("llava", tmp_path))
    options = {"lora_modules_to_save": "multi_modal_projector"}
    backbone = vlm_build.build("x", vlm_config.configure(source, options), 0, "cpu")
    before = layout(backbone)
    backbone.model.add_adapter(name, backbone.model.peft_config["default"])
    assert changed_parts(backbone, before) == ""
    backbone.base.gate = torch.nn.Linear(2, 2)
    assert "gate is new" in changed_parts(backbone, before)


def test_sampling_methods_train_adapters(steelyard: Command, tmp_path: Path) -> None:
    """Their trainers hold a second adapter, the frozen reference, until training ends."""
    words = ["run", "grpo", "--backbone", "tiny-vlm", "--backbone-set", "tune=lora"]
    words += ["--backbone-set", "batch_size=8", "--track", "data", "--budget", "8"]
    words += ["--evaluate", "pope", "--limit", "4", "--device", "cpu", "--jobs", "0"]
    steelyard(*words, "--runs", str(tmp_path))
    (path,) = record.find(tmp_path)
    done = record.read(path)
    assert done.status == "done", done.failure
