"""Answers in words by vLLM or SGLang, through lmms-eval's own models for them.

Everything around the answer stays what it is: images and corruptions, prompts, the cut of
reasoning and stop texts, scores. The engine gets a checkpoint with the adapter merged and the
processor of the backbone, so that it renders the same prompts of the same tokens.
"""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs, ModelKind
from steelyard.harness.core.files import TemporaryFolder

if TYPE_CHECKING:
    from torch import Tensor

    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm


def checked(engine: str, names: Sequence[str], model: "Classifier | Vlm") -> "Vlm":
    """Return the model; UserError for a task that an engine cannot answer, or a model."""
    from steelyard.harness.models.vlm import Vlm

    for name in names:
        variant = tasks.parse_variant(name)
        is_stock = tasks.is_stock(variant.task)
        if "adversarial" in variant.name or not (is_stock or tasks.info(variant.task).generative):
            raise UserError(
                f"{name} needs probabilities or gradients, and {engine} answers in words: leave "
                "--engine out."
            )
    if not isinstance(model, Vlm):
        problem = "a classifier answers with probabilities"
    elif model.extension is not None:
        problem = "its method added modules that an engine does not have"
    elif getattr(model.base, "is_quantized", False):
        problem = "its weights are quantised"
    else:
        return model
    raise UserError(f"--engine {engine}: {model.name}: {problem}. Leave the option out.")


def version(engine: str) -> str:
    """Return the installed version; UserError if there is none."""
    try:
        return metadata.version(engine)
    except metadata.PackageNotFoundError:
        package = "'steelyard[vllm]'" if engine == "vllm" else engine
        raise UserError(
            f"--engine {engine}: it is not installed here: pip install {package}, for a GPU."
        ) from None


class EngineModel:
    """Stands in for a backbone in ``evaluate``; the engine starts with the first question."""

    kind: ModelKind = "vlm"
    classes: tuple[str, ...] = ()
    multi_label = False

    def __init__(self, engine: str, model: "Vlm") -> None:
        self.name, self.recipe = model.name, model.recipe
        self.engine = {"name": engine, "version": version(engine)}
        self._model, self._folder = model, TemporaryFolder()
        self._answering: Any = None

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: "Tensor | None" = None
    ) -> list[str]:
        from lmms_eval.api.instance import Instance

        engine = self._started()
        turns = list(map(self._messages, inputs))
        # lmms-eval's models for chats look a question up by task, split and index.
        engine.task_dict = {self.name: {"test": turns}}
        requests = [
            Instance(
                request_type="generate_until",
                arguments=(item.prompt, list, {"max_new_tokens": max_tokens}, i, self.name, "test"),
                idx=0,
                metadata={"task": self.name, "doc_id": i, "repeats": 1},
            )
            for i, item in enumerate(inputs)
        ]
        answers = engine.generate_until(requests)
        return [str(getattr(answer, "text", answer)).strip() for answer in answers]

    def image_capacity(self, images: int) -> int:
        return self._model.image_capacity(images)

    def count_tokens(self, text: str) -> int:
        return self._model.count_tokens(text)

    def _messages(self, item: Inputs) -> list[Mapping[str, Any]]:
        """Return one user turn in lmms-eval's form, images first."""
        (turn,) = self._model.messages(item)
        parts = [
            {"type": "image", "url": part["image"]} if part["type"] == "image" else part
            for part in turn["content"]
        ]
        return [{**turn, "content": parts}]

    def _started(self) -> Any:
        if self._answering is None:
            import_lmms_eval()
            from lmms_eval.models import get_model

            from steelyard.harness.evaluation.lmms_model import BATCH_SIZE

            folder = Path(self._folder.__enter__())
            write_checkpoint(self._model, folder)
            self._model.model.to("meta")  # the engine has the weights
            options = {"model": str(folder), "batch_size": BATCH_SIZE, "trust_remote_code": False}
            self._answering = get_model(self.engine["name"])(**options)
        return self._answering


def write_checkpoint(model: "Vlm", folder: Path) -> None:
    """Write the model with its adapter merged, its processor, and the tokens that end an answer."""
    from peft import PeftModel
    from transformers import GenerationConfig

    whole: Any = model.model
    if isinstance(whole, PeftModel):
        whole = whole.merge_and_unload()
    whole.generation_config = GenerationConfig(
        eos_token_id=list(model.eos_ids),
        pad_token_id=model.prompts.pad_id,
        suppress_tokens=model.prompts.image_ids,  # by engines that read it: they are no text
    )
    whole.save_pretrained(folder, safe_serialization=True)
    model.processor.save_pretrained(folder)
