"""Log-probabilities of fixed pairs under the start model, computed once before training.

They do not change while the policy does, so they are charged once, to the phase ``reference``, and
no copy of the start model (or second adapter) stays in memory. ``DPOTrainer`` and ``KTOTrainer``
read them from the batch if told that they were precomputed. TRL's own way of precomputing refuses
images and hashes all weights.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.models.vlm import Vlm
from steelyard.methods._preference import trl_data

LARGEST_PART = 0.25
"""Fraction of the remaining budget for the start model. A step of full tuning costs three forward
passes, so this is enough to score each pair once and to train on it once: more pairs than that
would be scored and never used."""


def cached(
    backbone: Vlm,
    meter: Meter,
    collate: trl_data.Collator,
    rows: int,
    size: int,
    names: Sequence[str],
) -> tuple[trl_data.Collator, int]:
    """Score rows with the model as it is now, in the passes of steps over ``size`` rows.

    Returns a collator that adds their log-probabilities under ``names``, one [B] for each block of
    sequences of a batch, and the number of rows that were scored. Ranks score them in turns.
    """
    # On the data track no pass of the start model moves the meter's fraction.
    rows = min(rows, max(size, meter.budget.items or rows))
    backbone.eval()
    micro = backbone.recipe.micro_size(size)
    stage = meter.checkpoints.stage("reference")
    end = meter.fraction + LARGEST_PART * (1 - meter.fraction)
    work = stage.result or stage.position or {"end": end, "rows": []}

    def scores(start: int) -> list[list[float]]:
        batch = collate([{"row": row} for row in range(start, min(start + micro, rows))])
        values = torch.cat(
            [_log_probs(backbone, inputs) for inputs in trl_data.model_inputs(batch)]
        )
        columns: list[list[float]] = values.view(len(names), -1).float().T.tolist()
        return columns

    with meter.phase("reference"), torch.no_grad():
        while not stage.finished and (start := len(work["rows"])) < rows:
            stage.mark(lambda: work, ())
            if start >= size and meter.fraction >= work["end"]:
                break
            starts = range(start, rows, micro)[: ranks.world()]
            work["rows"] += itertools.chain(*ranks.deal(starts, scores))
    stage.finish(work)
    table = torch.tensor(work["rows"]).T
    meter.log({"rows_scored": float(table.shape[1])})

    def collate_with_reference(batch: list[dict[str, int]]) -> dict[str, Tensor]:
        columns = table[:, [row["row"] for row in batch]]
        return collate(batch) | dict(zip(names, columns, strict=True))

    return collate_with_reference, table.shape[1]


def _log_probs(backbone: Vlm, inputs: dict[str, Tensor]) -> Tensor:
    """Return the log-probability of each answer, summed over its tokens: [N]."""
    inputs = {name: value.to(backbone.device) for name, value in inputs.items()}
    mask = inputs.pop("completion_mask")
    labels = inputs["input_ids"].masked_fill(mask == 0, trl_data.IGNORED)
    output = backbone.model(**inputs, labels=labels, fused_lm_head=True, use_cache=False)
    total: Tensor = output.log_probs.sum(1)
    return total
