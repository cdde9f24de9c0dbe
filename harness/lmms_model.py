"""A backbone as an lmms-eval model, in this process and under the stock ``lmms-eval`` command."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from torch import Tensor

from steelyard.harness.backbone import Backbone, Inputs
from steelyard.harness.errors import UserError

BATCH_SIZE = 64


class Scorer(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """Answers requests with a backbone, in batches, in the order of the requests."""

    def __init__(self, backbone: Backbone, batch_size: int = BATCH_SIZE) -> None:
        super().__init__()
        self.backbone = backbone
        self.batch_size = batch_size

    def score_choices(self, requests: Sequence[Instance]) -> list[str]:
        """Class probabilities of each item as a JSON list.

        Raises:
            UserError: a document's classes are not those the backbone was trained on.
        """
        answers: list[str] = []
        for batch in self._batches(requests):
            for request in batch:
                self._check_classes(self._doc(request)["classes"])
            evidence = [request.args[1]["evidence"] for request in batch]
            answers += [_as_json(row) for row in self._answer(batch, evidence).tolist()]
        return answers

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The likeliest class name of each item, its whole prompt read as evidence."""
        answers: list[str] = []
        for batch in self._batches(requests):
            best = self._answer(batch, [request.args[0] for request in batch]).argmax(1)
            answers += [self.backbone.classes[index] for index in best.tolist()]
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
            yield requests[start : start + self.batch_size]

    def _doc(self, request: Instance) -> Any:
        _, _, _, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _answer(self, batch: Sequence[Instance], evidence: Sequence[str | None]) -> Tensor:
        """Probabilities [B, C]; every image is fetched by its own request's function."""
        inputs = []
        for request, text in zip(batch, evidence, strict=True):
            images = request.args[2](self._doc(request))
            inputs.append(Inputs(images[0] if images else None, text))
        probabilities = self.backbone.answer(inputs)
        expected = (len(inputs), len(self.backbone.classes))
        if tuple(probabilities.shape) != expected:
            raise ValueError(f"{self.backbone.name} answered {probabilities.shape}, not {expected}")
        return probabilities

    def _check_classes(self, classes: Sequence[str]) -> None:
        known = self.backbone.classes
        if tuple(classes) != tuple(known):
            raise UserError(
                f"The model's {len(known)} classes ({', '.join(known[:3])} ...) are not the data's "
                f"{len(classes)} ({', '.join(classes[:3])} ...): score it on the task it learnt."
            )


class RunScorer(Scorer):
    """The model of a finished run: ``--model steelyard --model_args run=<folder>``."""

    def __init__(self, run: str, batch_size: int = BATCH_SIZE) -> None:
        from steelyard.harness.classifier import load

        super().__init__(load(Path(run) / "weights"), int(batch_size))


def manifest() -> ModelManifest:
    """Entry point ``lmms_eval.models``: how stock lmms-eval finds ``steelyard``."""
    return ModelManifest("steelyard", simple_class_path=f"{__name__}.{RunScorer.__name__}")


def _as_json(probabilities: Sequence[float]) -> str:
    # Nine significant digits hold a float32 exactly, so that rounding makes no ties.
    return f"[{', '.join(f'{value:.9g}' for value in probabilities)}]"
