"""Backbone as an lmms-eval model, in this process and under the stock ``lmms-eval`` command."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from torch import Tensor

from steelyard.harness.core import ranks
from steelyard.harness.core.environment import free_memory, is_out_of_memory, pick_device
from steelyard.harness.core.errors import ItemError, NonFiniteOutput, UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.progress import no_progress
from steelyard.harness.models import registry
from steelyard.harness.models.backbone import Backbone
from steelyard.tasks import answers as wording

if TYPE_CHECKING:
    from steelyard.harness.evaluation.adversarial import WhiteBox

BATCH_SIZE = 64
"""Items that are first tried at once."""
MAX_TOKENS = 64
"""Length of an answer, if a task sets no limit."""
_fitting: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Items that a backbone's memory was last found to take at once."""
AnswerT = TypeVar("AnswerT")


class Scorer(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """Answers requests with a backbone, in batches, in the order of the requests."""

    def __init__(
        self,
        backbone: Backbone,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[float], None] = no_progress,
        attack: "WhiteBox | None" = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.batch_size = backbone.recipe.eval_batch_size or batch_size
        self.progress = progress
        self.attack = attack

    def score_choices(self, requests: Sequence[Instance]) -> list[str]:
        """Return class probabilities of each item as a JSON list."""

        def answer(batch: Sequence[Instance]) -> list[str]:
            text = [request.args[1]["text"] for request in batch]
            inputs, choices = self._inputs(batch, text), self._choices(batch)
            pixels = self._attacked(batch, inputs)
            if batch[0].args[1]["multi_label"] and not self.backbone.classes:
                # A generative model names labels, 1 for each named choice and 0 for the others:
                # likelihoods would rank the labels without saying how many apply.
                texts = self._generate(batch, inputs, MAX_TOKENS, pixels)
                answered = map(wording.without_reasoning, texts)
                rows = [[float(c) for c in wording.mentioned(text, choices)] for text in answered]
            else:
                with self._naming(batch):
                    probabilities = self.backbone.answer(inputs, choices, **pixels)
                if probabilities.shape != (len(inputs), len(choices)):
                    raise ValueError(
                        f"{self.backbone.name} answered {probabilities.shape}, not "
                        f"{(len(inputs), len(choices))}"
                    )
                rows = probabilities.tolist()
            # Nine significant digits hold a float32 exactly, so that rounding makes no ties.
            return [f"[{', '.join(f'{value:.9g}' for value in row)}]" for row in rows]

        return self._in_batches(requests, answer)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Return greedy answers in words; a classifier reads the full prompt as text.

        Sampling would make scores depend on chance, so a request for it raises UserError.
        """

        def answer(batch: Sequence[Instance]) -> list[GenerationResult]:
            options = [request.args[1] for request in batch]
            inputs = self._inputs(batch, [request.args[0] for request in batch])
            for settings in options:
                if settings.get("do_sample") or settings.get("num_beams", 1) > 1:
                    raise UserError(
                        f"Answers are greedy here, and the task needs {dict(settings)}: leave the "
                        "task out."
                    )
            # The longest of the batch, which cuts no answer short.
            limit = max(int(settings.get("max_new_tokens", MAX_TOKENS)) for settings in options)
            texts = self._generate(batch, inputs, limit, self._attacked(batch, inputs))
            answers = []
            for text, settings in zip(texts, options, strict=True):
                # Counted before reasoning and stop texts are cut: the model generated them all.
                counts = TokenCounts(output_tokens=self.backbone.count_tokens(text))
                # Here and not by lmms-eval's option, so that no setting changes a score.
                text = wording.without_reasoning(text)
                stops = settings.get("until") or []
                for stop in [stops] if isinstance(stops, str) else stops:
                    text = text.partition(stop)[0]
                answers.append(GenerationResult(text, counts))
            return answers

        return self._in_batches(requests, answer)

    def _generate(
        self,
        batch: Sequence[Instance],
        inputs: Sequence[Inputs],
        limit: int,
        pixels: Mapping[str, Tensor],
    ) -> list[str]:
        with self._naming(batch):
            texts = self.backbone.generate(inputs, limit, **pixels)
        if len(texts) != len(inputs):
            raise ValueError(f"{self.backbone.name} gave {len(texts)} of {len(inputs)} answers")
        return texts

    @contextmanager
    def _naming(self, batch: Sequence[Instance]) -> Iterator[None]:
        """Name the item that the model cannot take, or for which its outputs are not finite."""

        def name(row: int) -> str:
            *_, index, task, _ = batch[row].args
            doc = self._doc(batch[row])
            image = f" ({doc['image']})" if isinstance(doc.get("image"), str) else ""
            return f"{task}, item {doc.get('id', index)}{image}"

        try:
            yield
        except ItemError as error:
            raise UserError(f"{name(error.row)}: {error}") from error
        except NonFiniteOutput as error:
            raise UserError(
                f"{name(error.rows[0])}: the outputs of {self.backbone.name} are not finite: a "
                "weight is not a number, or the model overflows in this precision."
            ) from None

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        raise NotImplementedError(
            "lmms-eval 0.7.3 spoils log-likelihood answers on their way to scoring: "
            "ask for class probabilities with a score_choices request"
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        raise NotImplementedError("a classifier answers once and holds no conversation")

    def clean(self) -> None:
        """Keep everything: lmms-eval's own method deletes the model after an evaluation."""

    def _in_batches(
        self,
        requests: Sequence[Instance],
        answer: Callable[[Sequence[Instance]], list[AnswerT]],
    ) -> list[AnswerT]:
        """Answer requests in batches, which the ranks take in turns; all get all answers."""

        def answer_batch(start: int) -> list[AnswerT]:
            self.progress(start / len(requests))
            return self._in_parts(requests[start : start + self.batch_size], answer)

        starts = range(0, len(requests), self.batch_size)
        return [reply for part in ranks.deal(starts, answer_batch) for reply in part]

    def _in_parts(
        self,
        requests: Sequence[Instance],
        answer: Callable[[Sequence[Instance]], list[AnswerT]],
    ) -> list[AnswerT]:
        """Answer a batch at once, or in parts that are halved when memory is short.

        Raises:
            UserError: memory is short for one item, or for a batch size that was set.
        """
        answers: list[AnswerT] = []
        while len(answers) < len(requests):
            size = min(self.batch_size, _fitting.get(self.backbone, self.batch_size))
            batch = requests[len(answers) : len(answers) + size]
            try:
                answers += answer(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1 or self.backbone.recipe.eval_batch_size:
                    raise UserError(
                        f"Memory is short for {len(batch)} items at once: give eval_batch_size=0, "
                        "or less max_pixels, with --backbone-set."
                    ) from None
            else:
                continue
            # Outside the handler, whose exception holds the tensors of the failed pass.
            _fitting[self.backbone] = len(batch) // 2
            free_memory()
        return answers

    def _doc(self, request: Instance) -> Any:
        _, _, _, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _inputs(self, batch: Sequence[Instance], texts: Sequence[str | None]) -> list[Inputs]:
        """Return the inputs of each request; its own function fetches the images."""
        inputs = []
        for request, text in zip(batch, texts, strict=True):
            first, *more = request.args[2](self._doc(request)) or (None,)
            inputs.append(Inputs(first, text, request.args[0], tuple(more)))
        registry.check_images(
            self.backbone, batch[0].args[4], max(len(item.images) for item in inputs)
        )
        return inputs

    def _attacked(self, batch: Sequence[Instance], inputs: Sequence[Inputs]) -> dict[str, Tensor]:
        """Return the pixels of an attack, if any, as an argument of ``answer``."""
        if self.attack is None:
            return {}
        with self._naming(batch):
            return {"pixels": self.attack.pixels(inputs, [self._doc(r) for r in batch])}

    def _choices(self, batch: Sequence[Instance]) -> list[str]:
        """Return the answers to choose among; UserError if a classifier has other classes."""
        trained = tuple(self.backbone.classes)
        for request in batch:
            classes = self._doc(request)["classes"]
            if trained and tuple(classes) != trained:
                raise UserError(
                    f"The model's {len(trained)} classes ({', '.join(trained[:3])} ...) are not "
                    f"the data's {len(classes)} ({', '.join(classes[:3])} ...): score it on the "
                    "task it was trained on."
                )
        choices: list[str] = batch[0].args[1]["choices"]
        return choices


class RunScorer(Scorer):
    """Model of the stock command: ``--model steelyard --model_args run=<folder>``.

    Or ``pretrained=<hub id or path>[,adapter=<folder>]`` for a pretrained vision-language model.
    """

    def __init__(
        self,
        run: str = "",
        pretrained: str = "",
        adapter: str = "",
        batch_size: int = BATCH_SIZE,
        device: str = "auto",
    ) -> None:
        if bool(run) == bool(pretrained):
            raise UserError(
                "--model_args: give either run=<folder> or pretrained=<hub id or path>."
            )
        if run:
            model = registry.load(Path(run) / registry.WEIGHTS, pick_device(device))
        else:
            options = {"adapter": adapter} if adapter else {}
            model = registry.open_model(pretrained, options, pick_device(device))
        super().__init__(model, int(batch_size))


def manifest() -> ModelManifest:
    """Return the entry point ``lmms_eval.models``, by which stock lmms-eval finds ``steelyard``."""
    return ModelManifest("steelyard", simple_class_path=f"{__name__}.{RunScorer.__name__}")
