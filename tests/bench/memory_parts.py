"""Memory of training steps on real models, by parts that are measured on a CPU.

``python tests/bench/memory_parts.py`` runs one decoder layer, one vision block and the head at the
real widths, with random bf16 weights under the run's autocast and LoRA, for two sizes; counts the
bytes that autograd holds; and multiplies. It prints the table of ``docs/memory.md``.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import vlm_toys
from saved_tensors import SavedBytes
from torch import Tensor, nn

from steelyard import methods
from steelyard.harness.budget.meter import Budget, BudgetSpent
from steelyard.harness.models.vlm_config import VlmConfig

IMAGE, TEXT, ANSWER = 1000, 100, 100
"""Tokens of a photo, a question and an answer."""
MERGED = 4
"""Patches of a merged image token."""
PHOTOS = 8
SAMPLED, ATTACK = "GRPO, 8 answers", "MBPO's attack"
WIDTH, PATCH = 1280, 1176
"""Width of both towers, and numbers of a patch."""
KEPT = "total with checkpointing=false"
GB = 1e9
DEFAULTS = VlmConfig(source="x")
HALF = torch.bfloat16


@dataclass(frozen=True)
class Widths:
    """Sizes of a model, from its published configuration."""

    kind: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    mlp: int
    vocabulary: int
    vision: Mapping[str, Any]

    @property
    def adapter(self) -> int:
        """Parameters of LoRA on the query, key, value and output of every layer."""
        key = self.hidden * self.key_value_heads // self.heads
        pairs = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + key)
        return DEFAULTS.lora_rank * pairs * self.layers


TOWER = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2}
MODELS = {
    "Qwen2.5-VL-7B": Widths(
        "qwen2_5_vl", 3584, 28, 28, 4, 18944, 152064,
        {**TOWER, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584,
         "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
    ),
    "Qwen2-VL-2B": Widths(
        "qwen2_vl", 1536, 28, 12, 2, 8960, 151936,
        {**TOWER, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4},
    ),
}  # fmt: skip


def untrained(widths: Widths, layers: int, depth: int, vocabulary: int) -> Any:
    """Build a random model of these widths with so many layers, vision blocks and words."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    head = widths.hidden // widths.heads
    sections = [head // 8, 3 * head // 16, 3 * head // 16]
    text = {
        "hidden_size": widths.hidden,
        "intermediate_size": widths.mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": widths.heads,
        "num_key_value_heads": widths.key_value_heads,
        "vocab_size": vocabulary,
        "rope_parameters": {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6},
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(
        widths.kind,
        text_config=text,
        vision_config={**widths.vision, "depth": depth},
        tie_word_embeddings=widths.kind == "qwen2_vl",
    )
    return AutoModelForImageTextToText.from_config(config, dtype=HALF)


def line(measure: Callable[[int], float], small: int, large: int) -> float:
    """Return bytes per position between two sizes; the rest does not grow with the size.

    Raises:
        AssertionError: a third size is not on the line.
    """
    sizes = (small, (small + large) // 2, large)
    low, middle, high = (measure(size) for size in sizes)
    slope = (high - low) / (large - small)
    assert abs(low + slope * (sizes[1] - small) - middle) < 0.01 * middle
    return slope


def saved(module: nn.Module, run_pass: Callable[[], Any]) -> int:
    ledger = SavedBytes(module.parameters())
    with torch.autocast("cpu", HALF):
        result = ledger.during(run_pass)
    held = ledger.now
    del result
    return held


def measure(widths: Widths) -> dict[str, float]:
    """Measure bytes per decoder token, vision patch and answer token of one layer, block, head."""
    from peft import LoraConfig, get_peft_model

    model = untrained(widths, layers=1, depth=1, vocabulary=4096)
    lora = LoraConfig(
        r=DEFAULTS.lora_rank,
        lora_alpha=DEFAULTS.lora_alpha,
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)",
    )
    get_peft_model(model, lora)  # in place
    decoder, tower, head = model.get_decoder(), model.model.visual, model.get_output_embeddings()

    def layer(tokens: int) -> int:
        states = torch.zeros(1, tokens, widths.hidden, dtype=HALF, requires_grad=True)
        places = torch.arange(tokens).expand(3, 1, -1)
        rotation = decoder.rotary_emb(states.detach(), places)
        return saved(model, lambda: decoder.layers[0](states, position_embeddings=rotation))

    def block(patches: int) -> int:
        width = tower.blocks[0].norm1.weight.shape[0]
        states = torch.zeros(patches, width, dtype=HALF, requires_grad=True)
        size = width // widths.vision["num_heads"]
        rotation = (torch.zeros(patches, size), torch.zeros(patches, size))
        bounds = torch.tensor([0, patches], dtype=torch.int32)
        arguments = {"cu_seqlens": bounds, "position_embeddings": rotation}
        return saved(model, lambda: tower.blocks[0](states, **arguments))

    def loss(answers: int) -> int:
        states = torch.zeros(answers, widths.hidden, dtype=HALF, requires_grad=True)

        def run_pass() -> Tensor:
            with torch.autocast("cpu", HALF):
                logits = head(states).float()
            return torch.nn.functional.cross_entropy(logits, torch.zeros(answers).long())

        return saved(model, run_pass)

    per_answer = line(loss, 16, 64) - 2 * widths.hidden
    return {
        "layer": line(layer, 64, 256),
        "block": line(block, 64, 256),
        # The largest moment is in the loss: bf16 and fp32 logits, log-softmax and its gradient.
        "answer": (per_answer / 4096 + 2 + 2 * 4) * widths.vocabulary,
    }


def passes_held(name: str, options: Mapping[str, methods.Option], folder: Path) -> float:
    """Return how many decoder passes a method's step holds, as a multiple of fine-tuning's.

    Counted on a toy of the family, whose layers hold nearly everything as they do in a real one.
    """
    most = {}
    for method_name, settings in ((name, options), ("modality_dropout", {"rate": 0.0})):
        model = vlm_toys.build("qwen2_5_vl", folder, tune="lora")
        method, meter = methods.load(method_name), vlm_toys.watched(model, 1e15)
        meter.budget = Budget("test", items=8)
        ledger, data = SavedBytes(model.parameters()), vlm_toys.train_data(model, 8)
        config = methods.configure(method, settings, "vlm")
        with meter, suppress(BudgetSpent):
            ledger.during(lambda: method.train(model, data, meter, config, 0))  # noqa: B023
        most[method_name] = ledger.most
    return most[name] / most["modality_dropout"]


def parts(
    widths: Widths, sizes: Mapping[str, float], method: str, passes: float
) -> dict[str, float]:
    """Return the bytes of each part at the largest moment of one pass with gradients."""
    with torch.device("meta"):
        model = untrained(widths, widths.layers, widths.vision["depth"], widths.vocabulary)
    # A pair is two sequences.
    items = min(DEFAULTS.micro_batch_size, PHOTOS) * (2 if method == "DPO" else 1)
    tokens = items * (IMAGE + TEXT + ANSWER)
    patches = items * IMAGE * MERGED if method == ATTACK else 0
    blocks = widths.vision["depth"]
    answer = sizes["answer"] * items * ANSWER
    at_work = max(sizes["layer"] * tokens, sizes["block"] * patches)
    head = widths.hidden / widths.heads
    cached = 2 * 2 * widths.layers * widths.key_value_heads * head  # keys and values of a token
    sampled = DEFAULTS.batch_size * (IMAGE + TEXT + ANSWER) if method == SAMPLED else 0
    return {
        "weights, bf16": 2.0 * sum(parameter.numel() for parameter in model.parameters()),
        # Weights, gradients and both moments of AdamW; the reference is a second adapter.
        "adapters in fp32, with AdamW": (16.0 + 4 * (method in ("DPO", SAMPLED))) * widths.adapter,
        "inputs of decoder layers": 2.0 * widths.hidden * widths.layers * tokens * passes,
        "inputs of vision blocks": 2.0 * WIDTH * blocks * patches,
        "logits and loss at answer tokens": answer * passes,
        # What it holds when recomputed, and as much for gradients.
        "one layer or block at work, twice": 2 * at_work,
        "pixels, bounds and gradient of an attack": 5 * 4.0 * PATCH * patches,
        "keys and values of sampled answers": cached * sampled,
        KEPT: sizes["layer"] * widths.layers * tokens * passes + sizes["block"] * blocks * patches,
    }


def main() -> None:
    """Print the table of each model."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        held = passes_held("mcr", {}, Path(folder))
    columns = {"LoRA SFT": 1.0, "DPO": 1.0, SAMPLED: 1.0, ATTACK: 1.0, "MCR": held}
    print(f"Decoder passes that a step of MCR holds: {held:.2f}\n")
    for name, widths in MODELS.items():
        sizes = measure(widths)
        print(
            f"{name}: one decoder layer holds {sizes['layer'] / 1e3:.1f} kB a token, one vision "
            f"block {sizes['block'] / 1e3:.1f} kB a patch, the loss {sizes['answer'] / 1e6:.2f} MB "
            "an answer token.\n"
        )
        tables = [parts(widths, sizes, method, passes) for method, passes in columns.items()]
        print(f"| {name}, GB | {' | '.join(columns)} |\n|---|{'--:|' * len(tables)}")
        rows = [row for row in tables[0] if row != KEPT]
        for row in rows:
            print(f"| {row} | {' | '.join(f'{table[row] / GB:.1f}' for table in tables)} |")
        totals = [sum(table[row] for row in rows) for table in tables]
        print(f"| **total, of 80** | {' | '.join(f'**{total / GB:.1f}**' for total in totals)} |")
        inputs = [row for row in rows if row.startswith("inputs")]
        kept = [
            total + table[KEPT] - sum(table[row] for row in inputs)
            for total, table in zip(totals, tables, strict=True)
        ]
        print(f"| {KEPT} | {' | '.join(f'{total / GB:.1f}' for total in kept)} |\n")


if __name__ == "__main__":
    main()
