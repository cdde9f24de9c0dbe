"""Items answered at once: halved when memory is short, and kept for the model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stubs import Answer, Stub, corpus_at, peaked, run

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Inputs

ON_CPU = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
SHORT = (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(ON_CPU))


class Small(Stub):
    """Backbone whose memory takes ``most`` items at once."""

    def __init__(self, corpus: Corpus, rule: Answer, most: int, error: Exception) -> None:
        super().__init__(corpus, rule)
        self.most, self.error = most, error

    def answer(self, inputs: Sequence[Inputs], choices: Sequence[str]) -> torch.Tensor:
        if len(inputs) > self.most:
            raise self.error
        return super().answer(inputs, choices)


def small(corpus: Corpus, most: int, error: Exception = SHORT[0]) -> Small:
    def rule(item: Inputs) -> list[float]:
        return peaked(int((item.text or "0").split()[0]), 4)

    return Small(corpus, rule, most, error)


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_batches_are_halved_until_they_fit_and_stay_so(tmp_path: Path, error: Exception) -> None:
    corpus = corpus_at(tmp_path, size=20)
    model = small(corpus, 6, error)
    assert run(model, corpus).scores[0].value == 1.0
    assert model.batches == [5, 5, 5, 5]  # 20 items are 20, 10 and then 5 at once
    model.batches.clear()
    run(model, corpus, "@image-blank")
    assert model.batches == [5, 5, 5, 5]
    other = small(corpus, 64)
    run(other, corpus)
    assert other.batches == [20]


def test_a_size_that_was_set_is_kept_or_refused(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, size=20)
    model = small(corpus, 6)
    model.recipe = replace(model.recipe, eval_batch_size=4)
    run(model, corpus)
    assert model.batches == [4] * 5
    model.recipe = replace(model.recipe, eval_batch_size=8)
    with pytest.raises(UserError, match="Memory is short for 8 items at once: give eval"):
        run(model, corpus)


def test_one_item_that_does_not_fit_ends_in_one_line(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, size=4)
    with pytest.raises(UserError, match="Memory is short for 1 items at once"):
        run(small(corpus, 0), corpus)


def test_another_error_is_not_taken_for_it(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, size=4)
    with pytest.raises(RuntimeError, match="shapes"):
        run(small(corpus, 0, RuntimeError("shapes do not fit")), corpus)
