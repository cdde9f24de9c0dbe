"""Encoder of one modality: an AutoModel with its processor or tokenizer, pooled to one vector."""

import functools
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from steelyard.harness.core.examples import Modality
from steelyard.harness.core.readers import read_text
from steelyard.harness.models.assembled import located
from steelyard.harness.models.backbone import evaluation_mode
from steelyard.harness.models.classifier_config import HEADS
from steelyard.harness.models.storage import explain_load_errors

TINY = "tiny"
"""Source of the encoders built here, which have no pretrained weights."""
TEXT_BUCKET = 8  # lengths are rounded up to this, so that few distinct shapes occur


class Encoder(nn.Module):
    """Pools the last hidden state of an AutoModel: the mean over patches, positions or words.

    The pooled vector is layer-normalised without parameters, so that encoders of very different
    feature scales meet the same learning rate in the layers above.
    """

    def __init__(
        self, model: Any, processor: Any, modality: Modality, max_tokens: int, source: str
    ) -> None:
        super().__init__()
        self.model, self.processor, self.modality = model, processor, modality
        self.max_tokens, self.source = max_tokens, source
        self._features: dict[bytes, tuple[Tensor, float]] = {}
        self.seconds = 0.0
        """Seconds that all features read so far took to compute, whether they were in memory."""
        # Read off an output, because configurations name the width in too many ways; and what a
        # checkpoint lacks would be met by a crash within a run.
        sample = Image.new("RGB", (8, 8)) if modality == "image" else "a"
        with torch.no_grad(), evaluation_mode(model):
            self.width = self(*self.prepare([sample])[0]).shape[1]

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map pixels [B, 3, H, W], or token ids [B, T] with their mask [B, T], to [B, width]."""
        if mask is not None:
            states = self.model(input_ids=inputs, attention_mask=mask).last_hidden_state
            weights = mask.to(states.dtype)[:, :, None]
            pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        else:
            states = self.model(pixel_values=inputs).last_hidden_state
            pooled = states.mean(1) if states.dim() == 3 else states.flatten(2).mean(2)
        return nn.functional.layer_norm(pooled, pooled.shape[1:])

    def prepare(
        self, items: Sequence[Image.Image | str | None]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return model inputs, with zeros for absent items, and a mask of present items [B]."""
        present = torch.tensor([item is not None for item in items], dtype=torch.bool)
        if self.modality == "image":
            # One blank image if none is present, because processors state their output's shape in
            # too many ways to read it off.
            images = [item for item in items if item is not None] or [Image.new("RGB", (8, 8))]
            pixels: Tensor = self.processor(images, return_tensors="pt")["pixel_values"]
            # Zeros for absent items keep the rows of a batch aligned.
            full = torch.zeros(len(items), *pixels.shape[1:])
            full[present] = pixels[: int(present.sum())]
            return (full,), present
        texts = [str(item) if item is not None else "" for item in items]
        coded = self.processor(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            pad_to_multiple_of=TEXT_BUCKET,
            # Special tokens within a text are words of it.
            split_special_tokens=True,
            return_tensors="pt",
        )
        return (coded["input_ids"], coded["attention_mask"]), present

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Return the processor's values of black and white per channel: [1, 3, 1, 1] each.

        Read off two images, because processors name their scaling steps in too many ways.
        """
        images = [Image.new("RGB", (8, 8), (grey, grey, grey)) for grey in (0, 255)]
        pixels: Tensor = self.prepare(images)[0][0]
        return pixels[:1, :, :1, :1], pixels[1:, :, :1, :1]

    def features(self, items: Sequence[Image.Image | str | None]) -> tuple[Tensor, Tensor]:
        """Return outputs [B, width] of a frozen encoder, zeros if absent, and a mask [B]."""
        absent = torch.zeros(self.width)
        rows = [absent if item is None else self._cached(item) for item in items]
        return torch.stack(rows), torch.tensor([item is not None for item in items])

    @torch.no_grad()
    def _cached(self, item: Image.Image | str) -> Tensor:
        # One item at a time: in a batch the last bits would depend on the other items, and so on
        # the content of the cache. On a CPU that is no slower, because nothing is padded.
        if isinstance(item, str):
            content = item.encode()
        else:
            content = f"{item.mode}{item.size}".encode() + item.tobytes()
        key = hashlib.blake2b(content, digest_size=16).digest()
        if key not in self._features:
            inputs, _ = self.prepare([item])
            device = next(self.model.parameters()).device
            inputs = tuple(tensor.to(device) for tensor in inputs)
            start = time.perf_counter()
            # On the CPU, where ``collate`` builds batches before it moves them.
            row = self(*inputs)[0].float().cpu()
            self._features[key] = row, time.perf_counter() - start
        row, seconds = self._features[key]
        self.seconds += seconds
        return row

    def save(self, folder: Path) -> None:
        """Write configuration and processor; the classifier's file has the weights."""
        self.model.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        (folder / "source.txt").write_text(self.source + "\n", encoding="utf-8")

    @classmethod
    def restore(cls, folder: Path, modality: Modality, max_tokens: int, frozen: bool) -> "Encoder":
        """Rebuild from ``save``: from the configuration, or from the source when pretrained."""
        from transformers import AutoConfig, AutoModel

        source = read_text(folder / "source.txt").strip()
        if source != TINY:
            return pretrained_encoder(source, modality, max_tokens, frozen)
        model = AutoModel.from_config(
            AutoConfig.from_pretrained(folder, trust_remote_code=False), trust_remote_code=False
        )
        return cls(model, _processor(folder, modality), modality, max_tokens, TINY)


def tiny_image_encoder(size: int, width: int, layers: int) -> Encoder:
    """Build a small CLIP vision transformer with random weights for images of this size."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        image_size=size,
        # Sixteen patches of any image size.
        patch_size=size // 4,
    )
    shape = {"height": size, "width": size}
    processor = CLIPImageProcessor(size=shape, crop_size=shape, do_center_crop=False)
    return Encoder(CLIPVisionModel(config), processor, "image", 0, TINY)


def tiny_text_encoder(texts: Sequence[str], max_tokens: int, width: int, layers: int) -> Encoder:
    """Build a small BERT with random weights over the words of the training texts."""
    from transformers import BertConfig, BertModel

    tokenizer = word_tokenizer(texts, max_tokens)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        # Padding to a multiple of the bucket may exceed the longest text.
        max_position_embeddings=max_tokens + TEXT_BUCKET,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Encoder(BertModel(config), tokenizer, "text", max_tokens, TINY)


def word_tokenizer(texts: Sequence[str], max_tokens: int) -> Any:
    """Build a tokenizer of lower-case words and punctuation; unseen words become [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    # The most frequent words: rarer ones become [UNK], so that the embedding stays small.
    trainer = trainers.WordLevelTrainer(vocab_size=8000, special_tokens=special)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", special.index("[CLS]"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        model_max_length=max_tokens,
    )


def pretrained_encoder(source: str, modality: Modality, max_tokens: int, frozen: bool) -> Encoder:
    """Load a pretrained encoder; all runs of a process share a frozen one and its features."""
    return (_shared_encoder if frozen else load_encoder)(source, modality, max_tokens)


@functools.cache
def _shared_encoder(source: str, modality: Modality, max_tokens: int) -> Encoder:
    # Loading may draw random numbers, which a run with the encoder in the cache would not draw.
    with torch.random.fork_rng():
        return load_encoder(source, modality, max_tokens)


def load_encoder(source: str, modality: Modality, max_tokens: int) -> Encoder:
    """Load a pretrained encoder by hub id or local path; UserError if that fails."""
    from transformers import AutoModel

    with explain_load_errors(
        f"Could not load the {modality} encoder '{source}'",
        "Give a local folder with config.json and weights, or a hub id while online.",
        source,
    ):
        folder = located(source)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        processor = _processor(Path(folder), modality)
        # CLIP-like checkpoints have a tower for each modality.
        towers = dict(model.named_children())
        tower = towers.get("vision_model" if modality == "image" else "text_model", model)
        return Encoder(tower, processor, modality, max_tokens, source)


def _processor(source: Path, modality: Modality) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer

    kind = AutoImageProcessor if modality == "image" else AutoTokenizer
    processor = kind.from_pretrained(source.as_posix(), trust_remote_code=False)
    if modality == "text" and processor.pad_token is None:
        # Any token serves: padding is masked.
        processor.pad_token = processor.eos_token
    return processor
