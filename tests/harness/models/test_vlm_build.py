"""Vision-language backbones: built and restored from their configuration, no more."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_vlms
import torch
from PIL import Image

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Inputs, Turn
from steelyard.harness.models import registry, vlm_build, vlm_config
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.training import train_data
from steelyard.harness.training.train_data import vlm_data

QUESTIONS = ("is there a banana in the image ?", "what color is the fish ?", "which dish ?")
CHOICES = ("yes", "no", "red green")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.make("llava", tmp_path_factory.mktemp("vlm") / "llava")


def build(folder: Path, **options: Any) -> Vlm:
    return vlm_build.build("x", vlm_config.configure(str(folder), options), seed=0, device="cpu")


def items(sizes: tuple[tuple[int, int], ...] = ((32, 32), (32, 32))) -> list[Inputs]:
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    images = [Image.fromarray(pixels) for pixels in noise]
    pairs = zip([*images, None], QUESTIONS, strict=True)
    return [Inputs(image, text, text) for image, text in pairs]


def shifted(model: Vlm) -> Vlm:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def test_full_training_goes_on_from_an_adapter_and_is_saved_whole(
    checkpoint: Path, tmp_path: Path
) -> None:
    adapted = shifted(build(checkpoint, tune="lora"))
    vlm_build.save(adapted, tmp_path / "one")
    adapter = str(tmp_path / "one" / vlm_build.ADAPTER)
    merged = build(checkpoint, tune="full", adapter=adapter)
    expected = adapted.answer(items(), CHOICES)
    torch.testing.assert_close(merged.answer(items(), CHOICES), expected, rtol=1e-3, atol=1e-4)
    assert (build(checkpoint).answer(items(), CHOICES) - expected).abs().max() > 0.01
    assert not any("lora" in name for name, _ in merged.named_parameters())
    vlm_build.save(shifted(merged), tmp_path / "two")
    again = vlm_build.load(tmp_path / "two", "cpu")
    assert torch.equal(again.answer(items(), CHOICES), merged.answer(items(), CHOICES))


def test_an_adapter_is_not_put_on_another_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(checkpoint, base)
    vlm_build.save(build(base, tune="lora"), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / vlm_build.DESCRIPTION).read_text())
    assert vlm_build.load(tmp_path / "run", "cpu").config.tune == "lora"
    changed = build(base, tune="full")
    changed.base.lm_head.weight.data.zero_()
    changed.base.save_pretrained(base)
    with pytest.raises(UserError, match=f"another version of .* revision {saved['base']}"):
        vlm_build.load(tmp_path / "run", "cpu")


def test_a_vision_tower_trained_beside_an_adapter_comes_back(
    checkpoint: Path, tmp_path: Path
) -> None:
    model = shifted(build(checkpoint, tune="lora", vision="trained"))
    vlm_build.save(model, tmp_path)
    again = vlm_build.load(tmp_path, "cpu")
    assert torch.equal(again.answer(items(), CHOICES), model.answer(items(), CHOICES))
    (tmp_path / vlm_build.VISION).unlink()
    vlm_build.save(shifted(build(checkpoint, tune="lora")), tmp_path)
    assert not (tmp_path / vlm_build.VISION).exists(), "a frozen tower is not saved again"


def test_a_family_never_tried_is_tried_before_it_is_trained(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm_build, "FAMILIES", ())
    assert build(checkpoint, tune="full").training
    fuse = Vlm.fuse
    monkeypatch.setattr(Vlm, "fuse", lambda self, parts: fuse(self, parts) + 0.1)
    with pytest.raises(UserError, match="llava models do not fit"):
        build(checkpoint, tune="full")


def dtypes(model: Vlm) -> dict[bool, set[torch.dtype]]:
    """Return the types of learning weights, and of frozen ones."""
    parameters = list(model.parameters())
    return {learns: {p.dtype for p in parameters if p.requires_grad is learns}
            for learns in (True, False)}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"tune": "full"}, {"vision": "trained"}])
def test_a_run_its_scoring_and_evaluate_have_one_precision(
    checkpoint: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    """Frozen weights of a LoRA run are in bf16, whatever learns is in fp32; at every entrance."""
    frozen = torch.float32 if options.get("tune") == "full" else torch.bfloat16
    expected = {True: {torch.float32}, False: {frozen}}
    spec = RunSpec(
        "sft", "pope", str(checkpoint), "XS", 0, backbone_options={"precision": "bf16", **options}
    )
    corpus = Corpus("pope", tmp_path, (), False, {}, "")
    model = cast("Vlm", registry.build_untrained(spec, corpus, "cpu"))
    assert dtypes(model) == expected and model.recipe.precision == "bf16"
    registry.save(shifted(model), tmp_path / "run" / registry.WEIGHTS)
    opened = cast("Vlm", registry.open_model(str(tmp_path / "run"), {}, "cpu"))
    assert dtypes(opened) == expected and opened.recipe.precision == "bf16"
    untrained = cast("Vlm", registry.open_model(str(checkpoint), spec.backbone_options, "cpu"))
    assert untrained.base.get_decoder().layers[0].mlp.up_proj.weight.dtype == frozen
    scored = registry.load(tmp_path / "run" / registry.WEIGHTS, "cpu")
    assert torch.equal(scored.answer(items(), CHOICES), model.answer(items(), CHOICES))
    assert registry.precision(spec, tmp_path / "run" / registry.WEIGHTS, "cpu") == "bf16"


def test_precision_follows_the_device_unless_it_is_given() -> None:
    auto, half = (vlm_config.configure("a/b", options) for options in ({}, {"precision": "bf16"}))
    tiny = vlm_config.configure("tiny-vlm", {})
    for device, expected in (
        ("cpu", ("fp32", "bf16", "fp32")),
        ("cuda:1", ("bf16", "bf16", "fp32")),
    ):
        resolved = (vlm_config.resolve_precision(config, device) for config in (auto, half, tiny))
        assert tuple(config.precision for config in resolved) == expected


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_every_pass_runs_in_the_precision_of_the_recipe(checkpoint: Path, tune: str) -> None:
    """Also passes that no training loop opens autocast for, and those of a copy."""
    types: list[torch.dtype] = []
    for precision in ("bf16", "fp32"):
        model = build(checkpoint, tune=tune, precision=precision)
        for module in (copy.deepcopy(model), model):
            module.language_model.layers[0].mlp.down_proj.register_forward_hook(
                lambda module, args, output: types.append(output.dtype)
            )
            batch = module.collate(items(), ["yes", "no", "red"])
            passes = (
                lambda m=module: m.answer(items(), CHOICES),
                lambda m=module: m.generate(items(), 2),
                lambda m=module: m.base(**m.prompts.plain(m.collate(items()))),
                lambda m=module, b=batch: m.predict(b),
            )
            for run_pass in passes:
                types.clear()
                run_pass()
                expected = torch.bfloat16 if precision == "bf16" else torch.float32
                assert set(types) == {expected}
            assert module.predict(batch).dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")


def test_without_a_hub_its_copies_are_used_and_nobody_waits(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit, cached = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--some--model"
    shutil.copytree(checkpoint, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(UserError, match="Could not load 'nobody/nothing'"):
            build(Path("nobody/nothing"))
        model = build(Path("some/model"), tune="lora")
        vlm_build.save(model, tmp_path / "run")
        assert json.loads((tmp_path / "run" / "vlm.json").read_text())["base"] == commit
        loaded = vlm_build.load(tmp_path / "run", "cpu")
        assert torch.equal(loaded.answer(items(), CHOICES), model.answer(items(), CHOICES))
    assert not waited


def test_greedy_means_greedy_whatever_the_checkpoint_prefers(
    checkpoint: Path, tmp_path: Path
) -> None:
    fussy = tmp_path / "fussy"
    shutil.copytree(checkpoint, fussy)
    settings = json.loads((fussy / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 5.0, "do_sample": True, "temperature": 2.0, "top_k": 3}
    (fussy / "generation_config.json").write_text(json.dumps(settings))
    expected = build(checkpoint).generate(items(), 8)
    assert build(fussy).generate(items(), 8) == expected


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_onevision", "smolvlm"])
def test_kept_items_make_the_same_batches_as_fresh_ones(family: str, tmp_path: Path) -> None:
    """Whatever their images' sizes and whoever was processed beside them."""
    model = build(tiny_vlms.make(family, tmp_path), tune="full").eval()
    turns = [Turn(i, a, ()) for i, a in zip(items(((32, 32), (32, 64))), CHOICES, strict=True)]
    calls: list[str] = []

    def turn(example: Example) -> Turn:
        calls.append(example.id)
        return turns[int(example.id) % 3]

    examples = tuple(Example(str(n), None, None, ()) for n in range(9))
    data = vlm_data(model, examples, turn)
    calls.clear()
    for rows in ([0], [2, 4], [1, 0, 5]):
        selected = [turns[row % 3] for row in rows]
        expected = model.collate([t.inputs for t in selected], [t.answer for t in selected])
        gathered = data.gather(rows)
        assert (
            torch.equal(gathered.pixels, expected.pixels)
            and gathered.extra.keys() == expected.extra.keys()
        )
        assert all(
            torch.equal(gathered.extra[name], expected.extra[name]) for name in expected.extra
        )
        assert torch.equal(model.predict(gathered), model.predict(expected))
    assert not calls, "kept items are not asked for again"


def test_what_does_not_fit_in_memory_is_made_on_demand(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(checkpoint, tune="full")
    turn: Callable[[Example], Turn] = lambda example: Turn(items()[0], "yes", ())  # noqa: E731
    examples = tuple(Example(str(n), None, None, ()) for n in range(5))
    in_memory = vlm_data(model, examples, turn).gather([3, 1])
    monkeypatch.setattr(train_data, "IN_MEMORY_BYTES", 10)
    on_demand = vlm_data(model, examples, turn).gather([3, 1])
    assert torch.equal(on_demand.pixels, in_memory.pixels) and torch.equal(
        on_demand.tokens, in_memory.tokens
    )
