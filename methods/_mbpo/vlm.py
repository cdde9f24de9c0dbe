"""MBPO on a vision-language model: mined pairs beside sampled answers, in one hybrid trainer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from trl import GRPOConfig

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._mbpo.mining import (
    FAULTS,
    Fault,
    affordable,
    answers_of,
    attacked,
    candidates,
    find_faults,
    information_gain,
    parse_faults,
    retarget,
    until,
)
from steelyard.methods._preference import online, trl
from steelyard.methods._preference.hybrid import HybridTrainer, Offline, stored
from steelyard.methods._preference.online import Row
from steelyard.tasks.answers import normalise

if TYPE_CHECKING:
    from steelyard.methods.mbpo import Config


def train(backbone: Vlm, data: TrainData, meter: Meter, config: "Config", seed: int) -> None:
    """Mine pairs with the model as it is, then train on both streams until the budget is used."""
    online.check_group(backbone, config.group)
    rows = [] if config.stream == "offline" else online.online_rows(data)
    if config.stream != "online":
        rows += mine(backbone, data, meter, config, seed)
    sampler = online.sampler_of(rows, backbone, config.group, config.mix, seed)
    with trl.workspace(backbone) as folder:
        reference = trl.reference_copy(backbone) if config.beta else None
        how = config.sampling.arguments(reference is not None)
        own = {"epsilon": config.clip, "loss_type": "grpo"}
        trainer = HybridTrainer(
            model=backbone.model,
            reward_funcs=[*online.reward_functions(backbone, config.format_reward), stored],
            args=trl.arguments(GRPOConfig, backbone, seed, folder, **how, **own),
            train_dataset=online.dataset(backbone, data, rows),
            processing_class=backbone.processor,
            offline=Offline(config.offline_weight, config.nll_anchor),
        )
        online.set_up(trainer, meter, reference, config.beta, sampler, config.skip_flat)
        trl.run(trainer, backbone, meter, items=backbone.recipe.batch_size)


def mine(backbone: Vlm, data: TrainData, meter: Meter, config: "Config", seed: int) -> list[Row]:
    """Pairs of the right answer and the one given to the attacked image, faulty ones dropped.

    Raises:
        UserError: no pair is left.
    """
    dropped = parse_faults(config.filters)
    generator = torch.Generator().manual_seed(seed_for(seed, "mining", "attack"))
    counts = dict.fromkeys(FAULTS, 0)
    rows: list[Row] = []
    mined = 0
    end = until(meter, config.mine_share)
    with meter.phase("mine"):
        chosen = candidates(backbone, data, meter, config.selection, seed)
        for chunk in affordable(meter, end, chosen, backbone.recipe.batch_size):
            batch = data.gather(chunk)
            answers = wrong_answers(backbone, data, chunk, batch, config, generator)
            found = faults(backbone, batch, answers)
            mined += len(chunk)
            for position, good, bad, each in zip(
                chunk, answers_of(batch), answers, found, strict=True
            ):
                counts |= {fault: counts[fault] + 1 for fault in each}
                if not dropped.intersection(each):
                    rows.append(Row(position, True, "offline", tuple(good), tuple(bad)))
    shares = {f"mine_{fault}": count / mined for fault, count in counts.items()}
    meter.log({"mine_items": float(mined), "mine_pairs": float(len(rows)), **shares})
    if not rows:
        most = max(counts, key=lambda fault: counts[fault])
        raise UserError(
            f"None of {mined} mined answers is left: {counts[most]} have the fault '{most}'. Raise "
            "epsilon, steps or mine_limit, or leave that fault out of filters."
        )
    return rows


def wrong_answers(
    backbone: Vlm,
    data: TrainData,
    chunk: Sequence[int],
    batch: Batch,
    config: "Config",
    generator: torch.Generator,
) -> list[list[int]]:
    """What the model answers to the attacked images: token ids, with the end where it came."""
    if config.mining == "no_image":
        turns = [data.turn(position) for position in chunk]
        blind = backbone.collate([replace(turn.inputs, image=None) for turn in turns])
    else:
        blind = replace(batch, pixels=attacked(backbone, batch, config.attack, generator))
    temperature = config.mine_temperature or None
    return backbone.continuations(blind, config.max_tokens, temperature)


def faults(
    backbone: Vlm, batch: Batch, answers: Sequence[Sequence[int]]
) -> list[tuple[Fault, ...]]:
    """The faults of each mined answer, judged on the clean image."""
    end = backbone.eos_id
    gains = zip(
        information_gain(backbone, retarget(batch, answers)).tolist(),
        information_gain(backbone, batch).tolist(),
        strict=True,
    )
    return [
        find_faults(
            normalise(backbone.decode(bad)),
            normalise(backbone.decode(good)),
            ([t for t in bad if t != end], [t for t in good if t != end]),
            gain,
            end in bad,
        )
        for bad, good, gain in zip(answers, answers_of(batch), gains, strict=True)
    ]
