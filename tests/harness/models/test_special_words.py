"""Words of the data that are special tokens of a model are not read as markup, in any path."""

from dataclasses import replace
from pathlib import Path

import pytest
import scripted_vlm
import stock_data
import tiny_vlms
import torch
import vlm_toys
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.examples import Inputs
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import encoders
from steelyard.harness.models.backbone import Batch

TOKENS = {"llava": ("<image>", "<end>"), "qwen2_vl": ("<|image_pad|>", "<|vision_start|>"),
          "smolvlm": ("<image>", "<row_1_col_2>")}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("special")


def equal(first: Batch, second: Batch) -> bool:
    pairs = [(first.extra[name], second.extra[name]) for name in first.extra]
    pairs += [(first.tokens, second.tokens), (first.targets, second.targets)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("family", sorted(TOKENS))
def test_prompts_and_answers_are_those_without_the_words(family: str, root: Path) -> None:
    model = vlm_toys.build(family, root)
    picture = Image.effect_noise((32, 32), 60).convert("RGB")
    plain = [Inputs(image, "what fish", "what fish ?\nanswer :") for image in (picture, None)]
    expected = model.collate(plain, ["red cup", "no"])
    for token in TOKENS[family]:
        marked = [
            replace(item, text=f"{token}\nwhat {token}fish", prompt=prompt)
            for item, prompt in zip(
                plain,
                (f"{token}\nwhat {token}fish ?{token} \nanswer :{token}",) * 2,
                strict=True,
            )
        ]
        assert equal(model.collate(marked, [f"red{token} cup", f"{token}no"]), expected)
        choices = model.answer(marked, [f"red {token} cup", "no"])
        assert torch.equal(choices, model.answer(plain, ["red cup", "no"]))
        assert model.generate(marked, 4) == model.generate(plain, 4)
        text = model.messages(marked[0])[0]["content"][-1]["text"]
        assert text == "what fish ?\nanswer :"


def test_words_without_special_tokens_are_unchanged(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    for words in ("  two  spaces\n\n", "a < image > b", "<ima<image", "</end>", ""):
        assert model.prompts.as_text(words) == words


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_questions_of_both_kinds_of_task_are_scored(family: str, tmp_path: Path) -> None:
    folder = tiny_vlms.make(family, tmp_path / family)
    model = vlm_toys.build(str(folder), tmp_path)
    image, other = TOKENS[family]
    answers = []
    for name, marked in (("plain", ""), ("marked", f"{image}\n")):
        asked = [f"{marked}is there a fish ?{marked and other}"] * 4
        corpus = tasks.load("pope", scripted_vlm.pope(tmp_path / name, asked))
        answers.append(list(evaluate(model, tasks.parse_variant("pope"), corpus).items["answer"]))
        rows = stock_data.pope(6)
        for row in rows:
            row["question"] = marked + row["question"]
        stock = tasks.load("stock/pope", stock_data.write(tmp_path / f"stock-{name}", rows))
        items = evaluate(model, tasks.parse_variant("stock/pope"), stock).items
        answers[-1] += list(items["answer"])
    plain, with_words = answers
    assert len(plain) == 10 and with_words == plain


def test_a_title_with_markup_of_an_encoder_is_read_as_words() -> None:
    encoder = encoders.tiny_text_encoder(["a red fish [ ] cls pad"], 16, 16, 1)
    tokenizer = encoder.processor
    (tokens, mask), _ = encoder.prepare(["red [PAD] [CLS] fish"])
    row = tokens[0][mask[0].bool()].tolist()
    assert row[1:].count(tokenizer.cls_token_id) == row.count(tokenizer.pad_token_id) == 0
