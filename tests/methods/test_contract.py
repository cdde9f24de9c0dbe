"""Contract of a method, tested for all methods of the folder."""

from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import vlm_toys

from steelyard import methods, tasks
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.errors import NonFiniteLoss, UserError
from steelyard.harness.models import registry
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.training.train_data import train_data

LIMIT = 6e9  # some fifteen joint steps of the tiny classifier
VLM_LIMIT = 1.5e9
LIMITS = {"mbpo": 6e9}
"""Of methods that do more than training steps."""
CLASSIFIER = [n for n in methods.names() if "classifier" in methods.load(n).ABOUT.backbones]
FOR_RANDOM_MODELS: dict[str, dict[str, methods.Option]] = {
    # Answers mined from a random model would not pass the filters, and a short run affords few.
    "mbpo": {"filters": "same", "mine_share": 0.6, "steps": 3},
    "grpo": {"max_tokens": 4, "resample": 0},
}
REFUSED = {("mbpo", "mm_imdb")}
"""Preferring one class to another is undefined if an item has several."""
VLM = [n for n in methods.names() if "vlm" in methods.load(n).ABOUT.backbones]


def trained(name: str, world: Path, task: str = "food101") -> SimpleNamespace:
    corpus = tasks.load(task, world / task)
    spec = RunSpec(name, task, "tiny", "XS", 0)
    backbone = registry.build_untrained(spec, corpus, "cpu")
    data = train_data(backbone, corpus.name, corpus)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    meter = Meter(Budget("test", LIMIT), "cpu")
    for module in backbone.metered_modules:
        meter.watch(module)
    method = methods.load(name)
    with meter, suppress(BudgetSpent):
        method.train(backbone, data, meter, method.Config(), spec.seed_for("method"))
    return SimpleNamespace(backbone=backbone, meter=meter, before=before, corpus=corpus)


def trained_vlm(name: str, tune: str, root: Path) -> SimpleNamespace:
    model = vlm_toys.build("llava", root, tune=tune)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    meter = vlm_toys.train(
        model, name, LIMITS.get(name, VLM_LIMIT), **FOR_RANDOM_MODELS.get(name, {})
    )
    return SimpleNamespace(state=model.state_dict(), meter=meter, before=before)


first_of = cache(trained)
first_vlm_of = cache(trained_vlm)
"""Two tests share these runs."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


@pytest.mark.parametrize("name", methods.names())
def test_declares_itself(name: str) -> None:
    method = methods.load(name)
    assert method.ABOUT.title and method.ABOUT.summary
    assert methods.about(name) == method.ABOUT  # as read without importing it
    assert is_dataclass(method.Config) and method.Config.__dataclass_params__.frozen
    assert asdict(method.Config()) == {f.name: f.default for f in fields(method.Config)}
    assert len((vars(method)["__doc__"] or "").strip()) > 60


@pytest.mark.slow
@pytest.mark.parametrize("task", ["food101", "mm_imdb"])
@pytest.mark.parametrize("name", CLASSIFIER)
def test_trains_within_the_budget_and_answers(name: str, task: str, world: Path) -> None:
    if (name, task) in REFUSED:
        with pytest.raises(UserError, match="one class per item"):
            trained(name, world, task)
        return
    done = first_of(name, world, task)
    after = done.backbone.state_dict()
    assert done.meter.steps == 0 or any(
        not torch.equal(done.before[key], after[key]) for key in after
    )
    assert done.meter.spent <= LIMIT
    assert done.meter.steps or done.backbone.readout == "prior"
    if done.meter.steps:
        assert done.meter.spent > 0.85 * LIMIT, "a method that trains uses the budget it is given"
    inputs = [run_inputs(example) for example in done.corpus.splits["val"][:5]]
    answer = done.backbone.answer(inputs, done.corpus.classes)
    assert answer.shape == (len(inputs), len(done.corpus.classes))
    assert bool(torch.isfinite(answer).all())


def run_inputs(example: "object") -> "object":
    from steelyard.harness.core.examples import Inputs
    from steelyard.harness.data.images import open_image

    return Inputs(open_image(example.image), example.text)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIER)
def test_same_seed_same_weights(name: str, world: Path) -> None:
    first, second = first_of(name, world, "food101"), trained(name, world)
    first_state, second_state = first.backbone.state_dict(), second.backbone.state_dict()
    assert all(torch.equal(first_state[key], second_state[key]) for key in first_state)
    assert first.meter.ledger("budget").flops == second.meter.ledger("budget").flops
    assert first.meter.diagnostics == second.meter.diagnostics


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["full", pytest.param("lora", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("name", VLM)
def test_a_vlm_is_trained_within_the_budget(name: str, tune: str, root: Path) -> None:
    done = first_vlm_of(name, tune, root)
    assert done.state.keys() == done.before.keys(), "no adapter or hook is left behind"
    assert all(torch.isfinite(value).all() for value in done.state.values())
    if done.meter.steps:
        limit = LIMITS.get(name, VLM_LIMIT)
        spent = done.meter.spent
        # Steps differ, because flat groups are sampled again: the costliest is below two means.
        assert spent <= limit < spent + 2 * spent / done.meter.steps
        assert any(not torch.equal(done.before[key], done.state[key]) for key in done.state)


@pytest.mark.slow
@pytest.mark.parametrize("name", VLM)
def test_a_vlm_is_trained_the_same_way_twice(name: str, root: Path) -> None:
    first, second = first_vlm_of(name, "full", root), trained_vlm(name, "full", root)
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())
    assert first.meter.ledger("budget").flops == second.meter.ledger("budget").flops
    assert first.meter.diagnostics == second.meter.diagnostics


def test_a_loss_that_is_not_finite_names_its_step(world: Path, tmp_path: Path) -> None:
    from steelyard.harness.training.fit import fit

    corpus = tasks.load("food101", world / "food101")
    backbone = registry.build_untrained(RunSpec("x", "food101", "tiny", "XS", 0), corpus, "cpu")
    data = train_data(backbone, corpus.name, corpus)
    meter = Meter(Budget("test", LIMIT), "cpu")

    def step(batch: "object") -> "tuple[torch.Tensor, dict[str, float]]":
        loss = backbone.loss(backbone.predict(batch), batch).mean()  # type: ignore[arg-type]
        return loss * (float("nan") if meter.steps == 2 else 1.0), {}

    with meter, pytest.raises(NonFiniteLoss, match="step 3"):
        fit(backbone, data, meter, step, seed=0)


def test_unknown_methods_options_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'joint'"):
        methods.load("jiont")
    method = methods.load("modality_dropout")
    with pytest.raises(UserError, match="Did you mean 'rate'"):
        methods.configure(method, {"rat": 0.1})
    with pytest.raises(UserError, match="expected number"):
        methods.configure(method, {"rate": "often"})
    with pytest.raises(UserError, match="No method file"):
        methods.load(str(tmp_path / "none.py"))
    (tmp_path / "half.py").write_text("ABOUT = 1\n")
    with pytest.raises(UserError, match="lacks Config, train"):
        methods.load(str(tmp_path / "half.py"))
