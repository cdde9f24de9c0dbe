"""Methods that cheat: caught while they train, or by validation of what they leave behind."""

from pathlib import Path

import pytest

from steelyard import tasks
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash
from steelyard.harness.records.record import Record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run
from steelyard.harness.runs.job import Job
from steelyard.leaderboards.validate import method_scan, validate

METHOD = '''
"""A method of the tests."""
import contextlib
import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from steelyard.harness.training.fit import fit
from steelyard.methods import About

ABOUT = About(title="Mine", kind="control", summary="A method of the tests.")
ROOT = Path({root!r})


@dataclass(frozen=True, slots=True)
class Config:
    pass


def train(backbone, data, meter, config, seed):
    def step(batch):
        {in_step}
        return backbone.loss(backbone.predict(batch), batch).mean(), {{}}

    {before}
    fit(backbone, data, meter, step, seed=seed)
'''
HONEST = "pass"
READS_TEST = '(ROOT / "texts" / "test_titles.csv").read_text()'
READS_TEST_QUIETLY = f"""with contextlib.suppress(Exception):
        {READS_TEST}"""
LOOKS_AT_TEST_IMAGES = """from PIL import Image
    Image.open(sorted((ROOT / "images" / "test").rglob("*.*"))[0])"""
READS_TRAIN_IMAGES = "assert data.examples[0].image.read_bytes()"
SEARCHES = "gc.get_objects()"
PRETRAINS = """batch = next(data.batches(32, 0, "secret"))
    for _ in range(3):
        backbone.image_encoder.forward(batch.pixels)"""
PEEKS_EACH_STEP = """with torch.no_grad():
            backbone.image_encoder.forward(batch.pixels)"""
DETACHES = "[m._forward_pre_hooks.clear() for m in backbone.modules()]"


@pytest.fixture(scope="module")
def food(world: Path) -> Corpus:
    return tasks.load("food101", world / "food101")


def trained(
    food: Corpus, folder: Path, before: str = HONEST, in_step: str = HONEST, seed: int = 0
) -> Record:
    folder.mkdir(exist_ok=True)
    path = folder / "mine.py"
    path.write_text(METHOD.format(root=str(food.root), before=before, in_step=in_step))
    spec = RunSpec(str(path), "food101", "tiny", "4e9", seed, data={"revision": food.revision},
                   source=file_hash(path))  # fmt: skip
    job = Job(spec, "mine", ("food101",))
    return run.run(job, {"food101": food}, folder / "runs", "cpu", lambda doing, share: None)


@pytest.mark.parametrize("before", [HONEST, READS_TRAIN_IMAGES])
def test_what_a_method_was_given_it_may_look_at(food: Corpus, tmp_path: Path, before: str) -> None:
    record = trained(food, tmp_path, before=before)
    assert record.status == "done" and record.ledger.unposted == 0
    assert validate(tmp_path / "runs").findings == ()


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (READS_TEST, "test_titles.csv was opened while training"),
        (READS_TEST_QUIETLY, "test_titles.csv was opened while training"),
        (LOOKS_AT_TEST_IMAGES, "was opened while training"),
        (SEARCHES, "gc.get_objects was called while training"),
    ],
)
def test_training_on_test_items_fails_the_run(
    food: Corpus, tmp_path: Path, before: str, message: str
) -> None:
    record = trained(food, tmp_path, before=before)
    assert record.status == "failed" and message in record.failure
    assert record.scores == ()


@pytest.mark.parametrize(
    ("before", "in_step"),
    [(PRETRAINS, HONEST), (HONEST, PEEKS_EACH_STEP), (DETACHES, HONEST)],
)
def test_a_model_called_behind_the_meter_fails_the_run(
    food: Corpus, tmp_path: Path, before: str, in_step: str
) -> None:
    record = trained(food, tmp_path, before=before, in_step=in_step)
    assert record.status == "failed" and "behind the meter" in record.failure
    assert record.ledger.unposted > 0.05


def test_a_left_out_seed_is_a_finding(food: Corpus, tmp_path: Path) -> None:
    for seed in (0, 2):
        trained(food, tmp_path, seed=seed)
    (finding,) = validate(tmp_path / "runs").findings
    assert "mine has no run of seed 1" in finding.message


def test_reading_the_file_names_what_a_reviewer_has_to_look_at(
    food: Corpus, tmp_path: Path
) -> None:
    trained(food, tmp_path)
    path = tmp_path / "mine.py"
    text = METHOD.format(root="", before=READS_TEST, in_step=PEEKS_EACH_STEP)
    path.write_text(text + "\n\ndef more(meter):\n    meter._spent = 0\n    gc.get_objects()\n")
    messages = [finding.message for finding in validate(tmp_path / "runs", method=path).findings]
    for part in ("the records have", "imports gc", "calls read_text", "calls forward",
                 "uses meter._spent", "calls get_objects"):  # fmt: skip
        assert any(part in message for message in messages), part


UNSEEN = """
def more(net, text):
    import re
    import vllm.engine
    from re import compile as pattern
    from torch import compile
    from torch.utils import _python_dispatch
    from torch.utils._python_dispatch import TorchDispatchMode

    re.compile("a+").match(text)
    net.compile()
    torch.compile(net.forward)
    torch.cuda.CUDAGraph()
    torch.cuda.make_graphed_callables(net, ())
"""


def test_ways_to_compute_that_no_counter_sees_are_named(food: Corpus, tmp_path: Path) -> None:
    trained(food, tmp_path)
    path = tmp_path / "mine.py"
    text = path.read_text()
    path.write_text(text + UNSEEN)
    messages = [m for m in method_scan.check(path, []) if "the meter cannot see" in m]
    names = ("vllm", "compile", "_python_dispatch", "_python_dispatch", "compile", "compile",
             "CUDAGraph", "make_graphed_callables")  # fmt: skip
    lines = [len(text.splitlines()) + line for line in (4, 6, 7, 8, 11, 12, 13, 14)]
    expected = list(zip(lines, names, strict=True))
    assert len(messages) == len(expected)
    for message, (line, name) in zip(sorted(messages), sorted(expected), strict=True):
        assert message.startswith(f"line {line}:") and name in message
