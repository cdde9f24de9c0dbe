"""``--trl KEY=VALUE``: what the trainer's own configuration takes, and what is set elsewhere."""

from pathlib import Path

import pytest
import vlm_toys

from steelyard import methods
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.options import Options
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import suite
from steelyard.harness.runs.suite import Suite, SuiteEntry
from steelyard.methods._preference import trl


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("dpo", {"per_device_train_batch_size": 4}, "use --backbone-set batch_size=VALUE"),
        ("dpo", {"max_steps": 4}, "--trl max_steps: use --budget"),
        ("sft", {"data_seed": 4}, "use --seeds"),
        ("sft", {"report_to": "wandb"}, "use --log"),
        ("kto", {"save_steps": 4}, "use --runs"),
        ("kto", {"output_dir": "x"}, "use --runs"),
        ("grpo", {"learning_rate": 1e-3}, "use --backbone-set learning_rate=VALUE"),
        ("grpo", {"lr_scheduler_type": "linear"}, "use --backbone-set warmup=VALUE"),
        ("rloo", {"bf16": True}, "use --backbone-set precision=VALUE"),
        ("dpo", {"beta": 0.2}, "--trl beta: use --set beta=VALUE"),
        ("mbpo", {"num_generations": 4}, "use --set group=VALUE"),
        ("grpo", {"top_k": 5}, "steelyard sets it, or it has no effect here"),
        ("grpo", {"use_vllm": True}, "there is no vLLM here: pip install 'steelyard[vllm]'"),
        ("sft", {"use_vllm": True}, "Unknown setting of TRL's SFTConfig 'use_vllm'"),
        ("sft", {"packing": True}, "steelyard sets it, or it has no effect here"),
        ("dpo", {"loss_typ": "ipo"}, "Unknown setting of TRL's DPOConfig 'loss_typ'. Did you mean"),
        ("dpo", {"label_smoothing": "much"}, "label_smoothing='much': expected number"),
        ("dpo", {"loss_weights": "1,much"}, "expected a list, each item a number"),
        ("mdpo", {"label_smoothing": 0.1}, "mDPO takes no settings of TRL on a vlm"),
    ],
)
def test_what_it_does_not_take_is_one_line(method: str, setting: Options, message: str) -> None:
    with pytest.raises(UserError) as caught:
        methods.check_trainer(method, setting, "vlm")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_classifier_has_no_trainer() -> None:
    with pytest.raises(UserError, match="MBPO takes no settings of TRL on a classifier"):
        methods.check_trainer("mbpo", {"epsilon_high": 0.3}, "classifier")
    methods.check_trainer("mbpo", {}, "classifier")


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("dpo", {"loss_type": "ipo", "label_smoothing": 0.1}),
        ("dpo", {"loss_type": "sigmoid,sft", "loss_weights": "1,0.5"}),
        ("grpo", {"epsilon_high": 0.28, "scale_rewards": "none"}),
        ("kto", {"loss_type": "apo_zero_unpaired"}),
        ("sft", {"loss_type": "dft"}),
        ("rloo", {"normalize_advantages": True}),
        ("mbpo", {"epsilon_high": 0.28}),
        ("mpo", {"label_smoothing": 0.1}),
    ],
)
def test_settings_of_the_loss_are_taken(method: str, setting: Options) -> None:
    methods.check_trainer(method, setting, "vlm")


def test_a_setting_reaches_the_loss(tmp_path: Path) -> None:
    """IPO's loss at equal policies is (1 / (2 beta))² = 25; sigmoid's is log 2."""
    first = {}
    for loss in ("sigmoid", "ipo"):
        model = vlm_toys.build("llava", tmp_path)
        model.trainer_settings = {"loss_type": loss}
        data = vlm_toys.train_data(model)
        method = methods.load("dpo")
        with vlm_toys.watched(model, 1e9) as meter, pytest.raises(Exception, match="needed"):
            method.train(model, data, meter, method.Config(), 0)
        first[loss] = next(row["loss"] for row in meter.history if "loss" in row)
    assert first == {"sigmoid": pytest.approx(0.6931, abs=1e-3), "ipo": pytest.approx(25, abs=0.5)}


def test_arguments_of_the_harness_hold(tmp_path: Path) -> None:
    from trl import DPOConfig

    model = vlm_toys.build("llava", tmp_path)
    model.trainer_settings = {"label_smoothing": 0.1}
    arguments = trl.arguments(DPOConfig, model, 0, tmp_path)
    assert arguments.label_smoothing == 0.1 and arguments.report_to == []
    assert arguments.max_steps == trl.UNBOUNDED


def test_they_are_part_of_the_entrys_name_and_of_the_runs_id(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "tasks: [instruct]\nbackbone: tiny-vlm\n"
        "methods: [dpo, {method: dpo, options: {beta: 0.2}, trl: {loss_type: ipo}}]\n"
    )
    (read,) = suite.load(str(file))
    suite.check(read)
    assert [entry.name for entry in read.entries] == ["dpo", "dpo(beta=0.2, trl.loss_type=ipo)"]
    plain = RunSpec("dpo", "instruct", "tiny-vlm", "S", 0)
    assert RunSpec("dpo", "instruct", "tiny-vlm", "S", 0, trl={"loss_type": "ipo"}).id != plain.id
    wrong = Suite(
        "x", (SuiteEntry("dpo", trl={"max_steps": 3}),), ("instruct",), backbone="tiny-vlm"
    )
    with pytest.raises(UserError, match="use --budget"):
        suite.check(wrong)
