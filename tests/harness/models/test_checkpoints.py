"""Foreign checkpoints and adapters: what does not fit is one line, what does is used."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scripted_vlm
import tiny_vlms
import torch
import vlm_toys
from command import Command
from scripted_vlm import edit, edit_weights

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import encoders, registry
from steelyard.harness.models.vlm import Vlm

CHOICES = ("yes", "no", "red green")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.make("llava", tmp_path_factory.mktemp("vlm") / "llava")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return scripted_vlm.adapter(base, base.parent / "adapter")


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def opened(folder: Path, **options: Any) -> Vlm:
    model = registry.open_model(str(folder), options, "cpu")
    assert isinstance(model, Vlm)
    return model


def scores(model: Vlm) -> torch.Tensor:
    return model.answer([turn.inputs for turn in vlm_toys.turns(3)], CHOICES)


# Adapters


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("model.model.", "model.vlm.", 1): w for name, w in weights.items()}


def without_one(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights.items() if "layers.1.self_attn.v" not in name}


def wider(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([weight, weight], 1) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (renamed, r"8 tensors have no place in the model \(\S*vlm\S*\) and 8 tensors are missing"),
        (without_one, r"does not fit: 2 tensors are missing for the model \(\S*layers.1\S*\)\."),
        (wider, r"does not fit: Error.* size mismatch for \S*lora_A"),
    ],
)
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_an_adapter_that_does_not_fit_is_refused(
    base: Path, adapter: Path, tmp_path: Path, change: Any, fault: str, tune: str
) -> None:
    bad = Path(shutil.copytree(adapter, tmp_path / "bad"))
    edit_weights(bad / "adapter_model.safetensors", change)
    with pytest.raises(UserError, match=fault):
        opened(base, adapter=str(bad), tune=tune)


def test_an_adapter_as_model_is_its_base_with_the_adapter(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    """For scoring under both kinds of tuning, and for training."""
    expected = scores(opened(base, adapter=str(adapter)))
    assert (scores(opened(base)) - expected).abs().max() > 0.01
    run = Path(shutil.copytree(adapter, tmp_path / "checkpoint-500"))
    shutil.copy(base / "tokenizer.json", run)  # as Trainer leaves it
    assert torch.equal(scores(opened(run)), expected)
    merged = opened(run, tune="full")
    torch.testing.assert_close(scores(merged), expected, rtol=1e-3, atol=1e-4)
    trained = vlm_toys.build(str(run), tmp_path, tune="lora")
    assert trained.training and torch.equal(scores(trained), expected)
    assert registry.revision(str(run), {}) == registry.revision(str(base), {"adapter": str(run)})


def test_an_adapter_without_its_base_says_how_to_give_it(adapter: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(adapter, tmp_path / "run"))
    edit(run / "adapter_config.json", lambda c: c.update(base_model_name_or_path="/gone/base"))
    with pytest.raises(UserError, match=rf"'/gone/base', the base .* --backbone-set adapter={run}"):
        opened(run)
    edit(run / "adapter_config.json", lambda c: c.update(base_model_name_or_path=None))
    with pytest.raises(UserError, match=rf"does not name its base .* adapter={run}"):
        opened(run)
    edit(run / "adapter_config.json", lambda c: c.update(base_model_name_or_path=str(adapter)))
    with pytest.raises(UserError, match="takes one adapter"):
        opened(run)
    with pytest.raises(UserError, match="takes one adapter"):
        opened(adapter, adapter=str(run))


def test_scoring_puts_no_new_adapter_on(base: Path) -> None:
    model = opened(base, lora_targets="no_such_layer")
    assert not any("lora" in name for name, _ in model.named_parameters())


# Parts of a checkpoint

TEXT_ALONE = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] }}{% endfor %}assistant :"
BLIND = tiny_vlms.TEMPLATE.replace("IMAGE", "")
REFUSING = "{% if messages[0]['content'] | length > 1 %}{{ raise_exception('no!') }}{% endif %}hm :"


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def of_config(**entries: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder / "config.json", lambda content: content.update(entries))


def of_processor(name: str, value: Any) -> Callable[[Path], object]:
    return lambda folder: edit(
        folder / "processor_config.json", lambda content: content.update({name: value})
    )


def more_tokens(folder: Path) -> None:
    def change(content: Any) -> None:
        content["model"]["vocab"] |= {f"w{number}": 500 + number for number in range(5)}

    edit(folder / "tokenizer.json", change)


def fewer_weights(folder: Path) -> None:
    edit_weights(
        folder / "model.safetensors",
        lambda weights: {k: w for k, w in weights.items() if "layers.1.mlp" not in k or "vis" in k},
    )


BITS = {"load_in_4bit": True, "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (template(TEXT_ALONE), r"chat template or .* fails: .*concatenate str"),
        (template(BLIND), "shows no image: replace chat_template.jinja"),
        (template("{% for m in %}"), r"chat template or .* fails: Expected an expression"),
        (template("{{ raise_exception('only text') }}"), "fails: only text"),
        (template(REFUSING), "fails on an image of 64 x 64: no!"),
        (of_config(quantization_config=BITS), "requires bitsandbytes"),
        (of_config(_attn_implementation="flash_attention_2"), "FlashAttention2 has been toggled"),
        (of_config(model_type="llava_next_next"), "Could not load .*`llava_next_next`"),
        (of_processor("patch_size", 14), "patch_size is 14 in its processor and 8 in its vision"),
        (more_tokens, r"tokenizer has 505 tokens and its model embeddings of \d\d:"),
        (fewer_weights, "lacks 3 weights of its model, such as .*layers.1.mlp"),
    ],
)
def test_parts_that_do_not_fit_are_met_when_loaded(
    copy: Path, change: Callable[[Path], object], fault: str
) -> None:
    change(copy)
    with pytest.raises(UserError, match=fault) as error:
        opened(copy)
    assert "\n" not in str(error.value)


def test_a_fault_of_a_checkpoint_is_one_line(
    steelyard: Command, copy: Path, tmp_path: Path
) -> None:
    scripted_vlm.pope(tmp_path / "pope")
    words = ("pope", "--data-root", str(tmp_path / "pope"), "--out", str(tmp_path / "runs"))
    of_config(quantization_config=BITS)(copy)
    done = steelyard("evaluate", str(copy), *words)
    assert done.code == 2 and done.stderr.startswith("error: Could not load")


@pytest.mark.parametrize("family", ["llava", "smolvlm"])
def test_without_a_pad_token_scores_are_the_same(family: str, tmp_path: Path) -> None:
    folder = tiny_vlms.make(family, tmp_path / family)
    # Prompts of several lengths, with images and without.
    asked = [f"is there a {'red ' * number}fish ?" for number in range(6)]
    corpus = tasks.load("pope", scripted_vlm.pope(tmp_path / "pope", asked))
    expected = evaluate(opened(folder), tasks.parse_variant("pope"), corpus)
    for name, key in (("tokenizer_config.json", "pad_token"), ("config.json", "pad_token_id"),
                      ("generation_config.json", "pad_token_id")):  # fmt: skip
        edit(folder / name, lambda content, key=key: content.pop(key, None))
    model = opened(folder)
    result = evaluate(model, tasks.parse_variant("pope"), corpus)
    assert result.items.equals(expected.items)
    inputs = [Inputs(None, text, text) for text in asked]
    torch.testing.assert_close(model.answer(inputs, CHOICES)[:1], model.answer(inputs[:1], CHOICES))


# Encoders of classifiers


def test_encoders_fail_in_one_line_and_pad_without_a_pad_token(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    tokenizer = encoders.word_tokenizer(["a red fish", "a cup"], 16)
    widths = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **widths)
    LlamaModel(config).save_pretrained(tmp_path)
    tokenizer.eos_token = "[CLS]"
    tokenizer.save_pretrained(tmp_path)
    padded = encoders.load_encoder(str(tmp_path), "text", 16)
    edit(tmp_path / "tokenizer_config.json", lambda content: content.pop("pad_token"))
    encoder = encoders.load_encoder(str(tmp_path), "text", 16)
    texts = ["a red fish", "a"]
    outputs = [e(*e.prepare(texts)[0]) for e in (padded, encoder)]
    torch.testing.assert_close(*outputs)
    with pytest.raises(UserError, match="Could not load the image encoder"):
        encoders.load_encoder(str(tmp_path), "image", 16)
    edit(tmp_path / "config.json", lambda content: content.update(quantization_config=BITS))
    with pytest.raises(UserError, match="requires bitsandbytes"):
        encoders.load_encoder(str(tmp_path), "text", 16)


def test_an_encoders_width_is_that_of_its_output(tmp_path: Path) -> None:
    """DistilBERT calls the width of its inner layers ``hidden_dim``, ConvNeXt has a list."""
    from transformers import (
        CLIPImageProcessor,
        ConvNextConfig,
        ConvNextModel,
        DistilBertConfig,
        DistilBertModel,
    )

    tokenizer = encoders.word_tokenizer(["a red fish", "a cup"], 16)
    sizes = {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2}
    text = DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **sizes))
    image = ConvNextModel(ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2))
    for name, parts in {"text": (text, tokenizer), "image": (image, CLIPImageProcessor())}.items():
        for part in parts:
            part.save_pretrained(tmp_path / name)
    encoder = encoders.load_encoder(str(tmp_path / "text"), "text", 16)
    assert encoder.width == 16
    assert encoder(*encoder.prepare(["a red fish", "a"])[0]).shape == (2, 16)
    assert encoders.load_encoder(str(tmp_path / "image"), "image", 0).width == 8
