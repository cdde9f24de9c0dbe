"""MBPO on a vision-language model: answers are rows of tokens, training is GRPO on two streams."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from trl import GRPOConfig

from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.methods._mbpo.mining import (
    Fault,
    MinedAnswer,
    Policy,
    attacked_pixels,
    find_faults,
    information_gain,
)
from steelyard.methods._preference import online, trl
from steelyard.methods._preference.hybrid import HybridTrainer, stored
from steelyard.methods._preference.online import StreamRow
from steelyard.tasks.answers import normalise


@dataclass
class VlmPolicy(Policy):
    """Policy over answer tokens."""

    backbone: Vlm

    def __post_init__(self) -> None:
        # Before mining, so that a run that cannot train ends at once.
        online.check_group(self.backbone, self.sampling.group)
        is_offline = self.streams.stream == "offline"
        self.online_rows = [] if is_offline else online.online_rows(self.data)

    def answer_attacked(
        self, positions: Sequence[int], generator: torch.Generator
    ) -> list[MinedAnswer]:
        batch = self.data.gather(positions)
        if self.attack.mining == "no_image":
            inputs = [replace(self.data.turn(i).inputs, image=None) for i in positions]
            attacked = self.backbone.collate(inputs)
        else:
            pixels = attacked_pixels(self.backbone, batch, self.attack, generator)
            attacked = replace(batch, pixels=pixels)
        temperature = self.attack.temperature or None
        wrong = self.backbone.continuations(attacked, self.sampling.max_tokens, temperature)
        # Both gains are those of the clean image.
        gains = zip(
            information_gain(self.backbone, retarget(batch, wrong)).tolist(),
            information_gain(self.backbone, batch).tolist(),
            strict=True,
        )
        rows = zip(positions, answers_of(batch), wrong, gains, strict=True)
        return [
            MinedAnswer(position, tuple(good), tuple(bad), self._faults(good, bad, gain))
            for position, good, bad, gain in rows
        ]

    def _faults(
        self, right: list[int], wrong: list[int], gains: tuple[float, float]
    ) -> tuple[Fault, ...]:
        decode, end = self.backbone.decode, self.backbone.eos_id
        return find_faults(
            normalise(decode(wrong)),
            normalise(decode(right)),
            ([t for t in wrong if t != end], [t for t in right if t != end]),
            gains,
            finished=end in wrong,
        )

    def train(self, pairs: Sequence[MinedAnswer]) -> None:
        backbone, options = self.backbone, self.sampling
        offline = (StreamRow(p.position, True, "offline", p.right, p.wrong) for p in pairs)
        rows = [*self.online_rows, *offline]
        sampler = online.sampler_of(rows, backbone, options.group, self.streams.mix, self.seed)
        with trl.workspace(backbone) as folder:
            reference = trl.reference_copy(backbone) if options.beta else None
            settings = options.arguments(reference is not None)
            settings |= {"epsilon": options.clip, "loss_type": "grpo"}
            trainer = HybridTrainer(
                model=backbone.model,
                reward_funcs=[*online.reward_functions(backbone, options.format_reward), stored],
                args=trl.arguments(GRPOConfig, backbone, self.seed, folder, **settings),
                train_dataset=online.dataset(backbone, self.data, rows),
                processing_class=backbone.processor,
                streams=self.streams,
            )
            online.set_up(trainer, self.meter, sampler, options, reference)
            trl.run(trainer, backbone, self.meter, items=backbone.recipe.batch_size)


def retarget(batch: Batch, answers: Sequence[Sequence[int]]) -> Batch:
    """Return the batch with other answer tokens, right-padded with -100: [B, A]."""
    width = max(1, *(len(answer) for answer in answers))
    rows = [[*answer, *[-100] * (width - len(answer))] for answer in answers]
    targets = torch.tensor(rows, dtype=torch.int64, device=batch.targets.device)
    return replace(batch, targets=targets)


def answers_of(batch: Batch) -> list[list[int]]:
    """Return the answer tokens of each row, without padding."""
    return [[token for token in row if token >= 0] for row in batch.targets.tolist()]
