"""BalGrad: inter-modality gradient reweighting and inter-task gradient projection.

Kwon, Kim, Lee, Choi, Kim: "See-Saw Modality Balance: See Gradient, and Sew Impaired
Vision-Language Balance to Mitigate Dominant Modality Bias", NAACL 2025 (long 222),
arXiv 2503.13834. This is a reading, not a reproduction: no public code was found, and the
structure of the update is published while its scalar formulas and hyperparameters were not
available to us. Every choice below that is ours says so.

Losses: L_T of the fused prediction, L_m of side m's own prediction p_m, and

    K_image = KL(sg p_text || p_image),   K_text = KL(sg p_image || p_text)

K_m has a gradient on side m only (ours: direction, stop-gradient, temperature 1). Then

    g_kl   = kl (w_image grad K_image + w_text grad K_text),            w_image + w_text = 2
    g_T⊥   = g_T - <g_T, g_kl> / |g_kl|² g_kl   if <g_T, g_kl> < 0,     else g_T
    update = g_T⊥ + unimodal (grad L_image + grad L_text) + g_kl

which is plain training on  L_T + unimodal (L_image + L_text) + λ kl (w_image K_image + w_text
K_text)  with the detached scalar  λ = 1 + max(0, -<g_T, g_kl> / |g_kl|²): one backward pass.
λ is capped (ours: 10).

Options, all ours in detail; the defaults are recommended readings:
- weighting: "R1" w_m ∝ L_m, the weaker side is pulled harder; "R2" w_m ∝ the other side's mean
  probability of the truth (exp of minus the task loss, so a geometric mean over labels when
  multi-label); "R6" w_m ∝ |grad K_other|, which evens out the two norms; "equal" 1 and 1.
- projection, the parameters over which the inner product runs: "P1" all trainable encoder and
  embedding parameters; "P2" the embedding layers, far cheaper; "P3" as P1 but a λ for each
  side; "none" λ = 1. "equal" with "none" is the fixed-KL ablation, the control that matters.
- heads: "separate" linear heads give p_m; "shared" reads p_m from the fused classifier with the
  other side blanked, which also trains that classifier on blanked inputs.
- kl_to_heads: whether the KL gradient reaches the heads (or shared classifier) giving p_m.
- multi-label: binary cross entropy and Bernoulli KL, averaged over labels.
- kl and unimodal default to 1.

R1 follows the training loss, which memorisation fools: a side that over-fits looks strong.

On a vision-language model (ours; the paper has classifiers only):
- p_m is the model's own prediction at the answer tokens with the other side blanked, one more
  pass of the language model a side; "separate" and "shared" mean this same thing. KL is taken a
  token, the teacher detached, and averaged over answer tokens.
- Both sides share the language model, so g_kl is not made of two disjoint blocks. K_image and
  K_text are differentiated one by one over the whole probe, each through its own pass, which
  costs no more; w and λ stay weights of losses.
- The probe "P2" is the last block of the language model, "P1" all of vision tower, projector and
  language model; "P3" takes λ_m from <g_T, w_m grad K_m>.
- The KL gradient always reaches the language model (``kl_to_heads``): there is no head apart from
  it, and one backward pass stays one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES, Modality
from steelyard.harness.models.backbone import Backbone, Batch, Latents
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.divergences import kullback_leibler
from steelyard.methods._shared.gradients import (
    block_gradients,
    carry,
    flat_gradient,
    gradient_at,
    projection_weight,
    reweight,
)

ABOUT = About(
    title="BalGrad",
    kind="optimisation",
    summary="Draws the two sides' own predictions together, the weaker one harder, with just "
    "enough weight that the task gradient cannot undo it.",
    paper="Kwon et al., See-Saw Modality Balance, NAACL 2025, arXiv 2503.13834",
    backbones=("classifier", "vlm"),
    on_vlm={"kl_to_heads": True},
)


@dataclass(frozen=True, slots=True)
class Config:
    """Reading of the reweighting and the projection; see the module's text."""

    weighting: Literal["R1", "R2", "R6", "equal"] = "R1"
    projection: Literal["P1", "P2", "P3", "none"] = "P2"
    kl: float = 1.0
    unimodal: float = 1.0
    heads: Literal["separate", "shared"] = "separate"
    lambda_cap: float = 10.0
    kl_to_heads: bool = False


SEARCH: Space = {
    # The paper prints neither weights nor ranges. Ours; 0.1 for kl did better than 1 in old trials.
    "kl": LogUniform(0.03, 3.0),
    "unimodal": LogUniform(0.3, 3.0),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train with adaptive KL weights until the budget is used; draws no random number.

    Raises:
        UserError: an option that a vision-language model cannot follow.
    """
    if backbone.kind == "vlm" and not config.kl_to_heads:
        raise UserError(
            "kl_to_heads=false: a vision-language model has no head apart from its language model; "
            "leave it true."
        )
    scope = probe_scope(backbone, config.projection)

    def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        return balanced_loss(backbone, batch, scope, config)

    fit(backbone, data, meter, step, seed=seed)


def balanced_loss(
    backbone: Backbone, batch: Batch, scope: dict[Modality, Sequence[nn.Parameter]], config: Config
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """The scalar whose plain gradient is BalGrad's update, and what to log."""
    latents = backbone.encode(batch)
    task = backbone.loss(backbone.fuse(backbone.contribute(latents)), batch).mean()
    own = own_logits(backbone, latents, config.heads)
    modalities = Latents(backbone.loss(own.image, batch), backbone.loss(own.text, batch))
    image, text = modalities.image.mean(), modalities.text.mean()
    loss = task + config.unimodal * (image + text)
    values: dict[str, Tensor | float] = {
        "loss_task": task.detach(),
        "loss_image": image.detach(),
        "loss_text": text.detach(),
    }
    if config.kl == 0:
        return loss, values
    shared = backbone.kind == "vlm"
    kl, judged = weighted_kl(backbone.multi_label, task, own, modalities, scope, shared, config)
    if not config.kl_to_heads:
        kl = carry(kl, latents, gradient_at(kl, latents))
    return loss + kl, values | judged


def own_logits(
    backbone: Backbone, latents: Latents, heads: Literal["separate", "shared"]
) -> Latents:
    """Logits of each side by itself, one row a decision."""
    if heads == "separate":
        return backbone.unimodal(latents)
    return Latents(
        image=backbone.fuse(backbone.contribute(backbone.blank(latents, "text"))),
        text=backbone.fuse(backbone.contribute(backbone.blank(latents, "image"))),
    )


def weighted_kl(
    multi_label: bool,
    task: Tensor,
    own: Latents,
    modalities: Latents,
    scope: dict[Modality, Sequence[nn.Parameter]],
    shared: bool,
    config: Config,
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Sum of λ_m kl w_m K_m with weights detached (scalar), and what to log.

    ``own`` are the sides' logits, one row a decision, ``sides`` their task losses [B]; ``shared``
    says that both sides have the same parameters in scope.
    """
    image = kullback_leibler(own.text.detach(), own.image, multi_label).mean()
    text = kullback_leibler(own.image.detach(), own.text, multi_label).mean()
    kl_blocks: dict[Modality, Tensor] = {}
    if needs_kl_probe(config):
        kl_blocks = kl_gradients(image, text, scope, shared)
    weight = dict(
        zip(MODALITIES, modality_weights(modalities, kl_blocks, config.weighting), strict=True)
    )
    scale = dict.fromkeys(MODALITIES, torch.ones_like(task))
    values: dict[str, Tensor | float] = {"kl_image": image.detach(), "kl_text": text.detach()}
    values |= {f"weight_{modality}": weight[modality] for modality in MODALITIES}
    if config.projection != "none":
        weighted = {
            modality: config.kl * weight[modality] * kl_blocks[modality] for modality in MODALITIES
        }
        scale = block_lambdas(task_gradients(task, scope, shared), weighted, shared, config)
        values["conflict"] = sum(float(scale[modality] > 1.0) for modality in MODALITIES) / 2
    values["lambda"] = (scale["image"] + scale["text"]) / 2
    total = scale["image"] * weight["image"] * image + scale["text"] * weight["text"] * text
    return config.kl * total, values


def needs_kl_probe(config: Config) -> bool:
    """Whether a KL gradient has to be taken before the weights are known."""
    return config.projection != "none" or config.weighting == "R6"


def kl_gradients(
    image: Tensor, text: Tensor, scope: dict[Modality, Sequence[nn.Parameter]], shared: bool
) -> dict[Modality, Tensor]:
    """Gradient of each side's KL on the parameters in scope: one vector [P] a side."""
    if shared:
        losses: dict[Modality, Tensor] = {"image": image, "text": text}
        return {
            modality: flat_gradient(losses[modality], scope[modality]) for modality in MODALITIES
        }
    # The two blocks are disjoint, so one backward pass gives both sides' gradients.
    return block_gradients(image + text, scope)


def task_gradients(
    task: Tensor, scope: dict[Modality, Sequence[nn.Parameter]], shared: bool
) -> dict[Modality, Tensor]:
    """Gradient of the fused loss on the parameters in scope: one vector [P] a side."""
    if shared:
        return dict.fromkeys(MODALITIES, flat_gradient(task, scope["image"]))
    return block_gradients(task, scope)


def modality_weights(
    modalities: Latents,
    kl_blocks: dict[Modality, Tensor],
    weighting: Literal["R1", "R2", "R6", "equal"],
) -> tuple[Tensor, Tensor]:
    """w_image and w_text, detached scalars that sum to two."""
    image, text = modalities.image.detach(), modalities.text.detach()
    if weighting == "R1":
        return reweight(image.mean(), text.mean())
    if weighting == "R2":
        return reweight((-text).exp().mean(), (-image).exp().mean())
    if weighting == "R6":
        return reweight(kl_blocks["text"].norm(), kl_blocks["image"].norm())
    return reweight(torch.ones_like(image[0]), torch.ones_like(text[0]))


def block_lambdas(
    task: dict[Modality, Tensor], kl: dict[Modality, Tensor], shared: bool, config: Config
) -> dict[Modality, Tensor]:
    """λ of each side's KL: equal for P1 and P2, separate for P3."""
    if config.projection == "P3":
        return {
            modality: projection_weight(task[modality], kl[modality], config.lambda_cap)
            for modality in MODALITIES
        }
    if shared:  # each side's gradient is on the same parameters, so they add up
        both = projection_weight(task["image"], kl["image"] + kl["text"], config.lambda_cap)
    else:
        both = projection_weight(
            torch.cat([task[modality] for modality in MODALITIES]),
            torch.cat([kl[modality] for modality in MODALITIES]),
            config.lambda_cap,
        )
    return dict.fromkeys(MODALITIES, both)


def probe_scope(
    backbone: Backbone, projection: Literal["P1", "P2", "P3", "none"]
) -> dict[Modality, Sequence[nn.Parameter]]:
    """Trainable parameters of each side over which inner products run; of a vlm, all for both.

    Raises:
        UserError: there is none to project over.
    """
    scope: dict[Modality, Sequence[nn.Parameter]] = {}
    for modality in MODALITIES:
        whole = projection in ("P1", "P3")
        modules = backbone.modality_modules(modality) if whole else (backbone.embedding(modality),)
        scope[modality] = [p for module in modules for p in module.parameters() if p.requires_grad]
    if backbone.kind == "vlm":
        union = tuple({id(p): p for modality in MODALITIES for p in scope[modality]}.values())
        scope = {"image": union, "text": union}
    if projection != "none" and not any(scope.values()):
        raise UserError(
            f"projection={projection}: nothing there is trainable in {backbone.name}; give "
            "projection=P1 or projection=none."
        )
    return scope
