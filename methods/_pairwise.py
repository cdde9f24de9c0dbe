"""Training on pairs of answers with TRL's DPOTrainer, for every loss that it offers."""

from typing import Any, cast

from trl import DPOConfig, DPOTrainer

from steelyard.harness.backbone import Backbone
from steelyard.harness.batches import TrainData
from steelyard.harness.budget import Meter
from steelyard.harness.vlm import Vlm
from steelyard.methods import _preflight, _trl, _trl_data
from steelyard.methods._preferences import Source, make_pairs


def train_on_pairs(
    backbone: Backbone, data: TrainData, meter: Meter, seed: int, source: Source, **loss: Any
) -> None:
    """Make pairs with the model as it is, then train on them until the budget is used.

    ``loss`` are DPOConfig's settings of the loss: beta, loss_type, loss_weights.
    """
    model = cast(Vlm, backbone)
    pairs = make_pairs(model, data, meter, source, seed)
    prompts = _trl_data.prompts_of(model, data)
    _preflight.check(model, data, pairs, prompts)
    size = _trl_data.batch_size(model, len(pairs))
    with _trl.workspace(model) as folder:
        trainer = DPOTrainer(
            model=model.model,
            ref_model=_trl.reference_copy(model),
            args=_trl.arguments(
                DPOConfig, model, seed, folder, per_device_train_batch_size=size, **loss
            ),
            data_collator=_trl_data.preference(model, pairs, prompts),
            train_dataset=_trl_data.ordered(len(pairs), size, seed, "pairs"),
            processing_class=model.processor,
        )
        _trl.run(trainer, model, meter, items=size)
