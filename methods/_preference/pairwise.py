"""Training on pairs of answers with TRL's ``DPOTrainer`` and any loss that it offers."""

from typing import Any, cast

from trl import DPOConfig, DPOTrainer

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import preflight, trl, trl_data
from steelyard.methods._preference.negatives import PairOptions, make_pairs


def train_on_pairs(
    backbone: Backbone, data: TrainData, meter: Meter, seed: int, options: PairOptions, **loss: Any
) -> None:
    """Make pairs with the start model, then train on them until the budget is spent.

    ``loss`` are settings of ``DPOConfig``: beta, loss_type, loss_weights.
    """
    model = cast(Vlm, backbone)
    pairs = make_pairs(model, data, meter, options, seed)
    prompts = trl_data.prompts_of(model, data)
    preflight.check(model, data, pairs, prompts)
    size = trl_data.batch_size(model, len(pairs))
    settings = {"per_device_train_batch_size": size, **loss}
    with trl.workspace(model) as folder:
        trainer = DPOTrainer(
            model=model.model,
            ref_model=trl.reference_copy(model),
            args=trl.arguments(DPOConfig, model, seed, folder, **settings),
            data_collator=trl_data.preference(model, pairs, prompts),
            train_dataset=trl_data.ordered(len(pairs), size, seed, "pairs"),
            processing_class=model.processor,
        )
        trl.run(trainer, model, meter, items=size)
