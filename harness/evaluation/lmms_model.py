"""A backbone as an lmms-eval model, in this process and under the stock ``lmms-eval`` command."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from torch import Tensor

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.models.registry import check_images
from steelyard.tasks import answers as wording

if TYPE_CHECKING:
    from steelyard.harness.evaluation.adversarial import WhiteBox
    from steelyard.harness.models.vlm import Vlm

BATCH_SIZE = 64
MAX_TOKENS = 64
"""Of an answer, where a task sets no limit."""


class Scorer(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """Answers requests with a backbone, in batches, in the order of the requests."""

    def __init__(
        self,
        backbone: Backbone,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[float], None] = lambda share: None,
        attack: "WhiteBox | None" = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.batch_size = batch_size
        self.progress = progress
        self.attack = attack

    def score_choices(self, requests: Sequence[Instance]) -> list[str]:
        """Class probabilities of each item as a JSON list.

        Raises:
            UserError: a document's classes are not those the backbone was trained on.
        """
        answers: list[str] = []
        for batch in self._batches(requests):
            text = [request.args[1]["text"] for request in batch]
            inputs, choices = self._inputs(batch, text), self._choices(batch)
            seen = self._attacked(batch, inputs)
            if batch[0].args[1]["multi_label"] and not self.backbone.classes:
                answers += self._named(inputs, choices, **seen)
            else:
                found = self._score(inputs, choices, **seen)
                answers += [_as_json(row) for row in found.tolist()]
        return answers

    def _named(self, inputs: Sequence[Inputs], choices: Sequence[str], **seen: Tensor) -> list[str]:
        """A generative model names the labels it sees: 1 for each named choice, 0 for the rest.

        Comparing likelihoods would rank the labels without saying how many apply.
        """
        texts = self.backbone.generate(inputs, MAX_TOKENS, **seen)
        return [_as_json([float(c) for c in wording.named(text, choices)]) for text in texts]

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Greedy answers in words; a classifier reads the whole prompt as evidence.

        Raises:
            UserError: a request asks for sampling, which would make scores depend on chance.
        """
        answers: list[GenerationResult] = []
        for batch in self._batches(requests):
            asked = [request.args[1] for request in batch]
            inputs = self._inputs(batch, [request.args[0] for request in batch])
            limit = max(_max_tokens(settings) for settings in asked)
            texts = self.backbone.generate(inputs, limit, **self._attacked(batch, inputs))
            if len(texts) != len(inputs):
                raise ValueError(f"{self.backbone.name} gave {len(texts)} of {len(inputs)} answers")
            for text, settings in zip(texts, asked, strict=True):
                counts = TokenCounts(output_tokens=self.backbone.count_tokens(text))
                answers.append(GenerationResult(_until(text, settings), counts))
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Not offered."""
        raise NotImplementedError(
            "lmms-eval 0.7.3 spoils log-likelihood answers on their way to scoring: "
            "ask for class probabilities with a score_choices request"
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Not offered."""
        raise NotImplementedError("a classifier answers once and holds no conversation")

    def clean(self) -> None:
        """Keep everything: lmms-eval's own method deletes the model after an evaluation."""

    def _batches(self, requests: Sequence[Instance]) -> Iterator[Sequence[Instance]]:
        for start in range(0, len(requests), self.batch_size):
            self.progress(start / len(requests))
            yield requests[start : start + self.batch_size]

    def _doc(self, request: Instance) -> Any:
        _, _, _, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _inputs(self, batch: Sequence[Instance], texts: Sequence[str | None]) -> list[Inputs]:
        """What each request asks; images are fetched by its own function."""
        inputs = []
        for request, text in zip(batch, texts, strict=True):
            first, *more = request.args[2](self._doc(request)) or (None,)
            inputs.append(Inputs(first, text, request.args[0], tuple(more)))
        check_images(self.backbone, batch[0].args[4], max(len(each.images) for each in inputs))
        return inputs

    def _attacked(self, batch: Sequence[Instance], inputs: Sequence[Inputs]) -> dict[str, Tensor]:
        """Under an attack, the pixels to show in place of the images', as ``answer`` takes them."""
        if self.attack is None:
            return {}
        return {"pixels": self.attack.pixels(inputs, [self._doc(request) for request in batch])}

    def _choices(self, batch: Sequence[Instance]) -> list[str]:
        """The answers the batch's requests choose among, equal for all items of a task.

        Raises:
            UserError: they are not the classes a classifier was trained on.
        """
        known = self.backbone.classes
        for request in batch:
            classes = self._doc(request)["classes"]
            if known and tuple(classes) != tuple(known):
                raise UserError(
                    f"The model's {len(known)} classes ({', '.join(known[:3])} ...) are not the "
                    f"data's {len(classes)} ({', '.join(classes[:3])} ...): score it on the task "
                    "it learnt."
                )
        choices: list[str] = batch[0].args[1]["choices"]
        return choices

    def _score(self, inputs: Sequence[Inputs], choices: Sequence[str], **seen: Tensor) -> Tensor:
        """Probabilities [B, C]."""
        probabilities = self.backbone.answer(inputs, choices, **seen)
        expected = (len(inputs), len(choices))
        if tuple(probabilities.shape) != expected:
            raise ValueError(f"{self.backbone.name} answered {probabilities.shape}, not {expected}")
        return probabilities


class RunScorer(Scorer):
    """A model for the stock command: ``--model steelyard --model_args run=<folder>``.

    Or ``pretrained=<hub id or path>[,adapter=<folder>]`` for a vision-language model as it is.
    """

    def __init__(
        self,
        run: str = "",
        pretrained: str = "",
        adapter: str = "",
        batch_size: int = BATCH_SIZE,
        device: str = "cpu",
    ) -> None:
        from steelyard.harness.models import registry

        if bool(run) == bool(pretrained):
            raise UserError(
                "--model_args: give either run=<folder> or pretrained=<hub id or path>."
            )
        model = registry.load(Path(run) / "weights") if run else _pretrained(pretrained, adapter)
        super().__init__(model.to(device), int(batch_size))


def manifest() -> ModelManifest:
    """Entry point ``lmms_eval.models``: how stock lmms-eval finds ``steelyard``."""
    return ModelManifest("steelyard", simple_class_path=f"{__name__}.{RunScorer.__name__}")


def _pretrained(source: str, adapter: str) -> "Vlm":
    from steelyard.harness.models import vlm_build, vlm_config

    options = {"adapter": adapter} if adapter else {}
    return vlm_build.build(source, vlm_config.configure(source, options), seed=0)


def _max_tokens(settings: Mapping[str, Any]) -> int:
    if settings.get("do_sample") or settings.get("num_beams", 1) > 1:
        raise UserError(f"Answers are greedy here; the task asks for {dict(settings)}.")
    return int(settings.get("max_new_tokens", MAX_TOKENS))


def _until(text: str, settings: Mapping[str, Any]) -> str:
    """The answer up to the first of the task's stop strings."""
    stops = settings.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0]
    return text


def _as_json(probabilities: Sequence[float]) -> str:
    # Nine significant digits hold a float32 exactly, so that rounding makes no ties.
    return f"[{', '.join(f'{value:.9g}' for value in probabilities)}]"
