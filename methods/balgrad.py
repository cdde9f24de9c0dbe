"""BalGrad: reweight the gradients of two modalities and project that of the task.

Kwon, Kim, Lee, Choi, Kim: "See-Saw Modality Balance: See Gradient, and Sew Impaired
Vision-Language Balance to Mitigate Dominant Modality Bias", NAACL 2025 (long 222),
arXiv 2503.13834. This is a reading, not a reproduction: there is no public code, and the structure
of the update is published, but its scalar formulas and hyperparameters were not available to us.
Every choice of ours is marked.

Losses: L_T of the fused prediction, L_m of the prediction p_m of modality m alone, and, with sg for
stop-gradient,

    K_image = KL(sg p_text || p_image),   K_text = KL(sg p_image || p_text)

K_m has a gradient on modality m only (ours: direction, stop-gradient, temperature 1). Then

    g_kl   = kl (w_image grad K_image + w_text grad K_text),            w_image + w_text = 2
    g_T⊥   = g_T - <g_T, g_kl> / |g_kl|² g_kl   if <g_T, g_kl> < 0,     else g_T
    update = g_T⊥ + unimodal (grad L_image + grad L_text) + g_kl

which is plain training on  L_T + unimodal (L_image + L_text) + λ kl (w_image K_image + w_text
K_text)  with the detached scalar  λ = 1 + max(0, -<g_T, g_kl> / |g_kl|²): one backward pass.
λ is capped (ours: 10).

Options, ours in all details; the defaults are the readings that we recommend:
- weighting: "R1" w_m ∝ L_m, so the weaker modality gets the larger weight; "R2" w_m ∝ the other
  modality's mean probability of the truth (exp(-task loss), a geometric mean over labels if
  multi-label); "R6" w_m ∝ |grad K_other|, which makes weighted norms equal; "equal" 1 and 1.
- projection, the parameters of the inner product: "P1" all trainable encoder and embedding
  parameters; "P2" the embedding layers only, far cheaper; "P3" as P1 with one λ per modality;
  "none" λ = 1. "equal" with "none" is the ablation with a fixed KL, the control to compare with.
- heads: "separate" linear heads predict p_m; "shared" reads p_m from the fused classifier with the
  other modality blanked, which also trains that classifier on blanked inputs.
- kl_to_heads: the KL gradient reaches the heads (or the shared classifier) as well.
- teacher: "other" as above; "fused" replaces both teachers by the fused prediction.
- multi-label: binary cross entropy and Bernoulli KL, averaged over labels.
- kl and unimodal are 1.

R1 depends on the training loss, which memorisation lowers: an over-fitted modality looks strong.
w and λ are those of a pass, of which a step may have several (``micro_batch_size``).

On a vision-language model (ours; the paper has classifiers only):
- p_m is the model's prediction at the answer tokens with the other modality blanked, one more pass
  of the language model per modality; "separate" and "shared" both mean this. KL is computed per
  token, with the teacher detached, and averaged over answer tokens.
- The text alone is the question without its image, and what predicts its answer is the language
  prior. ``unimodal`` would train that prior on the labels, and the teacher "other" would pull the
  image's prediction towards it: the defaults are unimodal=0 and teacher="fused". K_text still
  trains the answer without the image, towards that with it.
- Both modalities share the language model, so g_kl has no two disjoint blocks. K_image and K_text
  are differentiated one by one over all parameters of the probe, each through its pass, which costs
  no more; w and λ remain weights of losses.
- "P2" is the last block of the language model, "P1" all of vision tower, projector and language
  model; "P3" takes λ_m from <g_T, w_m grad K_m>.
- The KL gradient always reaches the language model (``kl_to_heads``): it has no separate head, and
  there is still one backward pass.
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
from steelyard.harness.training.fit import StepResult, fit
from steelyard.harness.training.search import LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared import gradients
from steelyard.methods._shared.divergences import kullback_leibler

ABOUT = About(
    title="BalGrad",
    kind="optimisation",
    summary="Pulls the predictions of the two modalities together, the weaker one more, with just "
    "enough weight that the task gradient cannot undo it.",
    paper="Kwon et al., See-Saw Modality Balance, NAACL 2025, arXiv 2503.13834",
    backbones=("classifier", "vlm"),
    on_vlm={"kl_to_heads": True, "unimodal": 0.0, "teacher": "fused"},
    adapted="The paper has classifiers only: blanked prompts as unimodal predictions, the fused "
    "prediction as their teacher, and no unimodal loss, are ours.",
)

Weighting = Literal["R1", "R2", "R6", "equal"]
Projection = Literal["P1", "P2", "P3", "none"]


@dataclass(frozen=True, slots=True)
class Config:
    """Reading of the reweighting and the projection; the module's docstring explains it."""

    weighting: Weighting = "R1"
    """What the weight of a modality's divergence is made from; see the module's docstring."""
    projection: Projection = "P2"
    """Parameters whose gradients are projected; ``none`` projects nothing."""
    kl: float = 1.0
    """Weight of the divergence between the modalities."""
    unimodal: float = 1.0
    """Weight of each modality's own loss."""
    heads: Literal["separate", "shared"] = "separate"
    """Whether a modality alone is predicted by its own head or by the fused classifier."""
    teacher: Literal["other", "fused"] = "other"
    """Prediction that a modality is pulled to: the other modality's or the fused one."""
    lambda_cap: float = 10.0
    """Largest factor on the divergence."""
    kl_to_heads: bool = False
    """Whether the divergence trains the heads too."""


SEARCH: Space = {
    # The paper prints no weights or ranges. Ours: 0.1 for kl was better than 1 in early trials.
    "kl": LogUniform(0.03, 3.0),
    "unimodal": LogUniform(0.3, 3.0, on=("classifier",)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train with adaptive KL weights until the budget is spent; draws no random number.

    Raises:
        UserError: an option that a vision-language model cannot follow.
    """
    if backbone.kind == "vlm" and not config.kl_to_heads:
        raise UserError(
            "kl_to_heads=false: a vision-language model has no head apart from its language model; "
            "leave it true."
        )
    scope = probe_scope(backbone, config.projection)

    def step(batch: Batch) -> StepResult:
        return balanced_loss(backbone, batch, scope, config)

    fit(backbone, data, meter, step, seed=seed, state=())


def balanced_loss(
    backbone: Backbone, batch: Batch, scope: dict[Modality, Sequence[nn.Parameter]], config: Config
) -> StepResult:
    """Return the scalar whose gradient is BalGrad's update, and values to log."""
    latents = backbone.encode(batch)
    fused = backbone.fuse(backbone.contribute(latents))
    task = backbone.loss(fused, batch).mean()
    values: dict[str, Tensor | float] = {"loss_task": task.detach()}
    if config.unimodal == config.kl == 0:
        return task, values
    logits = unimodal_logits(backbone, latents, config.heads)
    losses = Latents(backbone.loss(logits.image, batch), backbone.loss(logits.text, batch))
    image, text = losses.image.mean(), losses.text.mean()
    loss = task + config.unimodal * (image + text) if config.unimodal else task
    values |= {"loss_image": image.detach(), "loss_text": text.detach()}
    if config.kl == 0:
        return loss, values
    teachers = Latents(logits.text, logits.image)
    if config.teacher == "fused":
        teachers = Latents(fused, fused)
    kl, kl_values = weighted_kl(backbone, task, logits, teachers, losses, scope, config)
    if not config.kl_to_heads:
        # The encoders keep the gradient of the KL, the heads lose it.
        kl = gradients.carry(kl, latents, gradients.gradient_at(kl, latents))
    return loss + kl, values | kl_values


def unimodal_logits(
    backbone: Backbone, latents: Latents, heads: Literal["separate", "shared"]
) -> Latents:
    """Return the logits of each modality alone, one row per decision."""
    if heads == "separate":
        return backbone.unimodal(latents)
    return Latents(
        image=backbone.fuse(backbone.contribute(backbone.blank(latents, "text"))),
        text=backbone.fuse(backbone.contribute(backbone.blank(latents, "image"))),
    )


def weighted_kl(
    backbone: Backbone,
    task: Tensor,
    logits: Latents,
    teachers: Latents,
    losses: Latents,
    scope: dict[Modality, Sequence[nn.Parameter]],
    config: Config,
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Return the sum of λ_m kl w_m K_m with detached weights (scalar), and values to log.

    ``task`` is L_T; ``logits``, one row per decision, and task losses [B] are those of each
    modality alone, ``teachers`` the logits that K_m compares with.
    """
    multi_label = backbone.multi_label
    shared = backbone.kind == "vlm"  # both modalities have the same parameters in ``scope``
    image = kullback_leibler(teachers.image.detach(), logits.image, multi_label).mean()
    text = kullback_leibler(teachers.text.detach(), logits.text, multi_label).mean()
    kl_blocks: dict[Modality, Tensor] = {}
    if config.projection != "none" or config.weighting == "R6":
        if shared:
            kl_blocks["image"] = gradients.flat_gradient(image, scope["image"])
            kl_blocks["text"] = gradients.flat_gradient(text, scope["text"])
        else:  # the two blocks are disjoint, so one backward pass computes both gradients
            kl_blocks = gradients.block_gradients(image + text, scope)
    weights = modality_weights(losses, kl_blocks, config.weighting)
    weight = dict(zip(MODALITIES, weights, strict=True))
    scale = dict.fromkeys(MODALITIES, torch.ones_like(task))
    values: dict[str, Tensor | float] = {"kl_image": image.detach(), "kl_text": text.detach()}
    values |= {f"weight_{modality}": weight[modality] for modality in MODALITIES}
    if config.projection != "none":
        weighted = {m: config.kl * weight[m] * kl_blocks[m] for m in MODALITIES}
        if shared:
            task_blocks = dict.fromkeys(MODALITIES, gradients.flat_gradient(task, scope["image"]))
        else:
            task_blocks = gradients.block_gradients(task, scope)
        scale = block_lambdas(task_blocks, weighted, shared, config)
        # λ exceeds 1 exactly if the gradients conflict.
        values["conflict"] = sum(float(scale[modality] > 1.0) for modality in MODALITIES) / 2
    values["lambda"] = (scale["image"] + scale["text"]) / 2
    total = scale["image"] * weight["image"] * image + scale["text"] * weight["text"] * text
    return config.kl * total, values


def modality_weights(
    losses: Latents, kl_blocks: dict[Modality, Tensor], weighting: Weighting
) -> tuple[Tensor, Tensor]:
    """Return w_image and w_text: detached scalars with sum 2."""
    image, text = losses.image.detach(), losses.text.detach()
    if weighting == "R1":
        return gradients.reweight(image.mean(), text.mean())
    if weighting == "R2":
        return gradients.reweight((-text).exp().mean(), (-image).exp().mean())
    if weighting == "R6":
        return gradients.reweight(kl_blocks["text"].norm(), kl_blocks["image"].norm())
    return gradients.reweight(torch.ones_like(image[0]), torch.ones_like(text[0]))


def block_lambdas(
    task: dict[Modality, Tensor], kl: dict[Modality, Tensor], shared: bool, config: Config
) -> dict[Modality, Tensor]:
    """Return λ of each K_m: equal for P1 and P2, separate for P3."""
    if config.projection == "P3":
        return {
            m: gradients.projection_weight(task[m], kl[m], config.lambda_cap) for m in MODALITIES
        }
    if shared:  # both gradients are on the same parameters, so they add up
        both = gradients.projection_weight(
            task["image"], kl["image"] + kl["text"], config.lambda_cap
        )
    else:
        task_gradient, kl_gradient = (torch.cat([g[m] for m in MODALITIES]) for g in (task, kl))
        both = gradients.projection_weight(task_gradient, kl_gradient, config.lambda_cap)
    return dict.fromkeys(MODALITIES, both)


def probe_scope(
    backbone: Backbone, projection: Projection
) -> dict[Modality, Sequence[nn.Parameter]]:
    """Return the trainable parameters of the inner product per modality; of a vlm, all for both.

    Raises:
        UserError: there is no such parameter.
    """
    scope: dict[Modality, Sequence[nn.Parameter]] = {}
    for modality in MODALITIES:
        if projection in ("P1", "P3"):
            modules = backbone.modality_modules(modality)
        else:
            modules = (backbone.embedding(modality),)
        scope[modality] = [p for module in modules for p in module.parameters() if p.requires_grad]
    if backbone.kind == "vlm":
        # The language model belongs to both modalities; its parameters count once.
        union = tuple({id(p): p for modality in MODALITIES for p in scope[modality]}.values())
        scope = {"image": union, "text": union}
    if projection != "none" and not any(scope.values()):
        raise UserError(
            f"projection={projection}: {backbone.name} has no trainable parameter there; give "
            "projection=P1 or projection=none."
        )
    return scope
