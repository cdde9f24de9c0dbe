"""Answers sampled by vLLM through the hook of TRL's trainers, in place of the backbone.

    steelyard run grpo --backbone MODEL --trl use_vllm=true                        # in the process
    steelyard run grpo --backbone MODEL --trl use_vllm=true --trl vllm_mode=server # a server's GPUs

TRL starts the engine or calls the server and sends it the weights before each step. Tokens cost
what they cost the backbone (``training.generation``). Ours: TRL's correction for the difference
between the engine's probabilities and the model's is off, since it takes a pass over all answers
that other engines do not; ``--trl vllm_importance_sampling_correction=true`` switches it on, at its
cost.
"""

from collections.abc import Sequence
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm

NEVER = -100.0  # bias of a token that is not to be sampled: the lowest that vLLM takes


def settings(backbone: Vlm) -> dict[str, Any]:
    """Return arguments of TRL by which vLLM samples as the backbone does."""
    return {
        "generation_kwargs": {
            "logit_bias": dict.fromkeys(backbone.prompts.image_ids, NEVER),
            "stop_token_ids": list(backbone.eos_ids),
        }
    }


def sample(
    trainer: Any, batch: Batch, inputs: Sequence[Inputs], group: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Return ``group`` answers to each prompt in turn, and the log-probabilities of their tokens.

    Raises:
        UserError: the engine's processor makes other tokens of an image.
    """
    step = trainer.state.global_step
    if step != trainer._last_loaded_step:
        trainer.vllm_generation.sync_weights()
        trainer._last_loaded_step = step
    pairs = zip(batch.tokens, batch.mask.bool(), strict=True)
    prompts = [row[real].tolist() for row, real in pairs]
    images = [list(item.images) or None for item in inputs]
    read, answers, log_probs, _ = trainer.vllm_generation.generate(
        prompts=[prompt for prompt in prompts for _ in range(group)],
        images=[row for row in images for _ in range(group)] if any(images) else None,
        num_generations=group,
    )
    for prompt, ids in zip(prompts, read[::group], strict=True):
        if len(prompt) != len(ids):
            raise UserError(
                f"vLLM reads a prompt of {len(prompt)} tokens as {len(ids)}: it resizes images by "
                "the checkpoint's own settings. Give --backbone-set max_pixels= as they have it."
            )
    # Of each token TRL lists the sampled one and, if asked, likelier ones.
    return [list(ids) for ids in answers], [[token[0] for token in row] for row in log_probs]
