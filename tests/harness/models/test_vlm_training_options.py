"""Options that users of large models set: what learns, in which form, and what it costs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_vlms
import torch
import vlm_toys
from torch import nn

from steelyard.harness.budget.flops import total_counter
from steelyard.harness.core import environment
from steelyard.harness.core.errors import UserError
from steelyard.harness.models import registry, vlm_build
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.spec import RunSpec


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training-options")


def adapted(model: Vlm) -> set[str]:
    """Last names of the layers with an adapter."""
    names = (name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name)
    return {name.rpartition(".")[2] for name in names}


def test_all_linear_adapts_every_layer_of_the_language_model_only(root: Path) -> None:
    model = vlm_toys.build("llava", root, tune="lora", lora_targets="all-linear", lora_dropout=0.5)
    inside = {n.rpartition(".")[2] for n, m in model.language_model.named_modules()
              if hasattr(m, "lora_A")}  # fmt: skip
    assert inside == adapted(model) >= {"q_proj", "gate_proj", "down_proj"}
    assert not any("lora" in name for name, _ in model.base.get_encoder("image").named_modules())
    dropouts = {m.p for n, m in model.named_modules() if "lora_dropout" in n and hasattr(m, "p")}
    assert dropouts == {0.5}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_further_modules_learn_in_full_and_come_back(
    precision: str, root: Path, tmp_path: Path
) -> None:
    options = {"tune": "lora", "lora_modules_to_save": "multi_modal_projector"}
    model = vlm_toys.build("llava", root, **options, precision=precision)
    learns = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learns.values()} == {torch.float32}
    further = [name for name in learns if "lora" not in name]
    assert further and all("multi_modal_projector.modules_to_save" in name for name in further)
    meter = vlm_toys.watched(model, 1e12)
    batch = vlm_toys.batch(model, 4)
    with meter, total_counter() as counter:
        model.loss(model.predict(batch), batch).mean().backward()
    assert meter.spent + meter.calibration == counter.get_total_flops()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1001  # is no number of bfloat16
    vlm_build.save(model, tmp_path)
    again = vlm_build.load(tmp_path, "cpu")
    weights = dict(again.named_parameters())
    assert all(torch.equal(weights[name], learns[name]) for name in learns)
    items, choices = [turn.inputs for turn in vlm_toys.turns(3)], ("yes", "no")
    assert torch.equal(again.answer(items, choices), model.eval().answer(items, choices))
    with pytest.raises(UserError, match="lora_modules_to_save: there is no layer called project"):
        vlm_toys.build("llava", root, tune="lora", lora_modules_to_save="projector")


def test_full_tuning_in_bf16_keeps_weights_gradients_and_moments_in_it(root: Path) -> None:
    from steelyard.harness.training.fit import new_optimiser

    model = vlm_toys.build("llava", root, tune="full", precision="bf16", weights="bf16")
    batch = vlm_toys.batch(model, 2)
    model.loss(model.predict(batch), batch).mean().backward()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = new_optimiser(parameters, model.recipe)
    optimiser.step()
    states = optimiser.state.values()
    moments = {state[name].dtype for state in states for name in ("exp_avg", "exp_avg_sq")}
    assert {p.dtype for p in model.parameters()} == moments == {torch.bfloat16}
    with pytest.raises(UserError, match="weights=bf16 goes with tune=full and precision=bf16"):
        vlm_toys.build("llava", root, tune="lora", weights="bf16")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_either_attention_costs_the_same(root: Path, attention: str) -> None:
    model = vlm_toys.build("llava", root, attn_implementation=attention)
    assert model.base.config.get_text_config()._attn_implementation == attention
    batch = vlm_toys.batch(model, 2)
    costs = []
    for other in (model, vlm_toys.build("llava", root)):
        with torch.no_grad(), total_counter() as counter:
            other.predict(batch)
        costs.append(counter.get_total_flops())
    assert costs[0] == costs[1]
    with pytest.raises(UserError, match="allowed are auto, sdpa, eager"):
        vlm_toys.build("llava", root, attn_implementation="flash_attention_2")


@pytest.fixture
def four_bit_product(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Product with packed weights, as bitsandbytes declares it, in place of the package."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    library = torch.library.Library("bitsandbytes", "FRAGMENT")
    library.define("gemm_4bit(Tensor A, Tensor B, int[] shapeB, Tensor absmax) -> Tensor")
    library.impl("gemm_4bit", lambda a, b, shape, absmax: a @ b[: shape[1] * shape[0]].view(
        shape[0], shape[1]).float().t(), "CPU")  # fmt: skip
    yield torch.ops.bitsandbytes.gemm_4bit
    library._destroy()


@pytest.mark.skipif(environment.find_spec("bitsandbytes") is not None, reason="the stand-in's name")
def test_a_product_in_four_bits_costs_what_its_shape_costs(four_bit_product: Any) -> None:
    inputs, packed = torch.randn(2, 3, 8), torch.ones(5 * 8)
    with total_counter() as counter:
        result = four_bit_product(inputs, packed, [5, 8], torch.ones(1))
    assert result.shape == (2, 3, 5)
    assert counter.get_total_flops() == 2 * (2 * 3) * 8 * 5


def test_a_model_in_four_bits_costs_what_it_costs_in_full(tmp_path: Path) -> None:
    """In both directions, and when answering, for which bitsandbytes has other kernels."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    size = tiny_vlms.Size(hidden=64, key_value_heads=4)  # its kernels take multiples of 64
    tiny_vlms.make("llava", tmp_path / "llava", size)
    options = {"tune": "lora", "lora_targets": "all-linear", "feature_cache_gb": 0}
    costs, probabilities = [], []
    for quantize in ("none", "4bit"):
        model = vlm_toys.build("llava", tmp_path, quantize=quantize, **options)
        batch = vlm_toys.batch(model, 4)
        with total_counter() as counter:
            model.loss(model.predict(batch), batch).mean().backward()
            items = [turn.inputs for turn in vlm_toys.turns(4)]
            probabilities.append(model.eval().answer(items, ("yes", "no")))
        costs.append(counter.get_total_flops())
    assert costs[0] == costs[1]
    packed = [n for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert packed and all("language_model" in name for name in packed)
    assert (probabilities[0] - probabilities[1]).abs().max() < 0.3


@pytest.mark.parametrize("options", [{"quantize": "4bit"}, {"optimizer": "adamw_8bit"}])
def test_a_missing_package_is_one_line(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'steelyard\[quant\]'"):
        registry.check_packages("some/model", options)
    registry.check_packages("some/model", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "4bit", "tune": "full"}, "quantize=4bit goes with tune=lora"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0: give a number from 0 to below 1"),
        ({"beta2": 1.0}, "beta2=1.0: give a number from 0 to below 1"),
        ({"clip_norm": 0.0}, "clip_norm=0.0: give a positive number"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1: give 0 or more"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_values_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.configure("some/model", options)


def test_options_of_speed_alone_are_no_part_of_a_runs_id() -> None:
    def spec(**options: Any) -> RunSpec:
        return RunSpec("sft", "instruct", "some/model", "XS", 0, backbone_options=options)

    assert spec(eval_batch_size=4).id == spec().id == spec(eval_batch_size=8, workers=2).id
    assert spec(beta2=0.95).id != spec().id
    assert spec(eval_batch_size=4, beta2=0.95).model_options == {"beta2": 0.95}


def test_moments_decay_as_the_recipe_says() -> None:
    from steelyard.harness.models.backbone import Recipe
    from steelyard.harness.training.fit import new_optimiser

    weight = nn.Parameter(torch.ones(1))
    adamw = new_optimiser([weight], Recipe(beta1=0.8, beta2=0.95))
    assert adamw.defaults["betas"] == (0.8, 0.95)
    assert new_optimiser([weight], Recipe("sgd", beta1=0.5)).defaults["momentum"] == 0.5
    assert new_optimiser([weight], Recipe("sgd", beta1=0.0)).defaults["nesterov"] is False


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_moments_of_eight_bits(name: Any) -> None:
    pytest.importorskip("bitsandbytes")
    from steelyard.harness.models.backbone import Recipe
    from steelyard.harness.training.fit import new_optimiser

    weight = nn.Parameter(torch.randn(64, 128))  # smaller tensors keep theirs in 32
    optimiser = new_optimiser([weight], Recipe(name))
    weight.grad = torch.randn_like(weight)
    optimiser.param_groups[0]["lr"] = 1e-3
    before = weight.detach().clone()
    optimiser.step()
    assert optimiser.state[weight]["state1"].dtype == torch.uint8
    assert 0 < (weight - before).abs().max() < 2e-3
