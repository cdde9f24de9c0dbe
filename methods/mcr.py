"""MCR: a multimodal competition regulariser, built from a game between the two encoders.

Kontras, Strypsteen, Chatzichristos, Liang, Blaschko, De Vos: "Balancing Multimodal Training
Through Game-Theoretic Regularization", NeurIPS 2025, arXiv 2411.07335.

Loss, with latents z_m, contributions c_m to the fusion, unimodal heads u_m and prediction y:

    L = CE(y) + unimodal (CE(u_image) + CE(u_text)) + MIPD term + contrastive L_con + ceb L_ceb

MIPD     J_m = E JSD(p(y | all), p(y | modality m permuted within the batch)): by how much the
         prediction depends on modality m. Encoder m descends -mipd (grad J_m + k grad J_other):
         k = -1 greedy (raise J_m, lower J_other), 0 independent, +1 collaborative.
L_con    for every ordered pair (a, p) of the 2B normalised latents with the same label:
         -log( e^(s_ap/τ) / (e^(s_ap/τ) + Σ_n e^(s_an/τ)) ), n over latents of another label,
         averaged over all such pairs; other positives are not in the denominator.
L_ceb    mean squared error between [z_image; z_text] and a bias-free two-layer decoder of the
         detached logits: a conditional entropy bottleneck with unit-variance Gaussian decoder.

Defaults are those published for CREMA-D with ResNet-18: mipd 0.1, unimodal 0.01, contrastive 1,
ceb 0, 32 draws. Over the other sets mipd runs from 0.001 to 0.1 and unimodal from 0.001 to 1;
ceb is 1 for large pretrained encoders and 0 otherwise. The temperature 0.5 is the released
pipeline's. Most published runs start from pretrained encoders (``pretrain``, charged here).

Where the paper or its code is silent or ambiguous, ours:
- The latents of the first encoder pass are reused; nothing is encoded twice. K permutations are
  drawn uniformly, fixed points and partners of the same label included; both modalities share them.
  They permute the items of one pass, of which a step may have several (``micro_batch_size``).
- The reference prediction is detached. This has no effect in the greedy game.
- ``detach="contribution"``: player m is encoder m with its half of the first fusion layer;
  ``"latent"``: the encoder alone. Shared parameters (bias, later layers) and, with ``"latent"``,
  the full head get no MIPD gradient.
- The term has the value zero, as the greedy game has identically, and only a gradient; J_image and
  J_text are logged.
- Multi-label: JSDs of Bernoulli variables, averaged over labels; in L_con two latents are
  positives if their items share a label or are the same item.
- The decoder's hidden layer has the latents' width; it is trained together with the backbone.

On a vision-language model (ours; the paper has classifiers only):
- A modality is the image's tokens after the projector, with the tokens that the processor writes
  between them, or the embeddings of the prompt's tokens. A row with another item's image is that
  prompt rendered around it: images may differ in size and number, or be missing.
  The prediction is the distribution over the vocabulary at each answer token, teacher-forced; JSDs
  are averaged over answer tokens. The fusion is the language model, so each draw costs two of its
  passes; the default is one draw.
- ``players="sides"`` is the game as above, between projector and token embeddings. It leaves almost
  all weights out; under LoRA with frozen vision it leaves out all of them, which is refused.
  ``players="whole"``, the default here, includes shared parameters: the language model descends
  -mipd (grad J_image + grad J_text), because it is part of both players, and the tensors of each
  modality get the gradient of their game as before.
- ``unimodal`` reads a modality alone by blanking the other: two more passes of the language model,
  39 % of a step's FLOPs at the classifier's weight of 0.01, and its text side trains the language
  prior. The default is 0.
- ``contrastive``, ``ceb`` and ``pretrain`` need pooled latents or separate encoders: refused.

Faults of the public code that are avoided here: the regulariser was computed and logged but not
added to the classification loss of two modalities; configuration names selected no method; boolean
flags replaced the weights; permuted predictions lacked the bias of the reference; permuted latents
came from a second encoder pass in evaluation mode.

A gain over joint training is no evidence for the game: compare with ``mipd=0``, the same run
without permutations. A loss is none against it: compare with ``contrastive=0``, because at a weight
of 1 that term is most of a small model's loss (3.5 of 4.3 on generated food photos). In an additive
head the greedy game can inflate the contributions without limit; their centred norms are logged.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.harness.core.options import require
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch, Latents, TwoTower
from steelyard.harness.models.pgd import frozen_parameters
from steelyard.harness.training.fit import StepResult, fit
from steelyard.harness.training.search import Choice, LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.divergences import jensen_shannon
from steelyard.methods._shared.gradients import carry, gradient_at
from steelyard.methods._shared.steps import pretrain_modalities

ABOUT = About(
    title="MCR",
    kind="objective",
    summary="Makes each encoder raise how much the prediction changes if its modality is shuffled, "
    "and pulls the latents of equal labels together.",
    paper="Kontras et al., Balancing Multimodal Training Through Game-Theoretic Regularization, "
    "NeurIPS 2025, arXiv 2411.07335",
    backbones=("classifier", "vlm"),
    on_vlm={"draws": 1, "contrastive": 0.0, "unimodal": 0.0, "players": "whole"},
    adapted="The paper has classifiers only: that the language model plays for both modalities, at "
    "the answer's tokens and with one permutation a step, is ours.",
)

Game = Literal["greedy", "independent", "collaborative"]
SIGN: dict[Game, float] = {"greedy": -1.0, "independent": 0.0, "collaborative": 1.0}


@dataclass(frozen=True, slots=True)
class Config:
    game: Game = "greedy"
    """What each encoder does to the other's J: lower it, nothing, or raise it."""
    mipd: float = 0.1
    """Weight of the permutation game; 0 leaves it out, below 0 each player *lowers* its J."""
    unimodal: float = 0.01
    """Weight of each modality's own loss."""
    contrastive: float = 1.0
    """Weight of L_con; 0 leaves it out."""
    ceb: float = 0.0
    """Weight of L_ceb; 0 leaves it out."""
    draws: int = 32
    """Permutations per step (K)."""
    temperature: float = 0.5
    """τ of L_con."""
    detach: Literal["contribution", "latent"] = "contribution"
    """End of a player: its contribution or its latent."""
    players: Literal["sides", "whole"] = "sides"
    """Shared parameters stay out of the game (sides) or raise both J (whole)."""
    pretrain: float = 0.0
    """Fraction of the budget for training each modality alone first."""

    def __post_init__(self) -> None:
        pretrain = "a fraction of the budget in [0, 1)"
        require(self, "pretrain", 0 <= self.pretrain < 1, pretrain)
        require(self, "draws", self.draws >= 1, "at least 1; mipd=0 leaves out the game")
        require(self, "temperature", self.temperature > 0, "a positive number")


SEARCH: Space = {
    # The authors' grids: 0.001 to 1 for both weights.
    "mipd": LogUniform(0.001, 1.0),
    "unimodal": LogUniform(0.001, 1.0, on=("classifier",)),
    # 1 everywhere in the paper; 0 leaves the term out.
    "contrastive": Choice((0.0, 1.0), on=("classifier",)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Minimise L until the budget is spent.

    Raises:
        UserError: a term that a vision-language model has no tensors for, or passes of one item.
    """
    recipe = backbone.recipe
    if config.mipd != 0 and recipe.micro_size(recipe.batch_size) == 1:
        raise UserError(
            f"MCR permutes the items of a pass, and equal passes of batch_size={recipe.batch_size} "
            f"within micro_batch_size={recipe.micro_batch_size} have one: give a batch_size that "
            "is a multiple of a micro_batch_size of at least 2."
        )
    if backbone.kind == "vlm":
        check_terms(config)
    elif config.pretrain > 0:
        towers = cast(TwoTower, backbone)
        pretrain_modalities(towers, data, meter, share=config.pretrain, seed=seed)
    generator = torch.Generator().manual_seed(seed_for(seed, "mcr", "permutations"))
    # A list, because ``fit`` trains any number of further modules; without ``ceb`` none.
    extra: list[nn.Module] = []
    if config.ceb > 0:
        extra.append(latent_decoder(backbone, data.classes, seed_for(seed, "mcr", "ceb")))
        # It is outside the backbone, so nothing else charges its passes.
        meter.watch(extra[0])

    def step(batch: Batch) -> StepResult:
        latents = backbone.encode(batch)
        parts = backbone.contribute(latents)
        logits = backbone.fuse(parts)
        loss = backbone.loss(logits, batch).mean()
        values: dict[str, Tensor | float] = {"loss_task": loss.detach()}
        if config.mipd != 0:
            draw = partial(permutations, config.draws, len(latents.image), generator)
            order = ranks.in_turn(draw).to(logits.device)
            term, game_values = game_term(backbone, latents, parts, logits, order, config)
            loss = loss + term
            values |= game_values
        if config.unimodal > 0:
            heads = backbone.unimodal(latents)
            image, text = backbone.loss(heads.image, batch), backbone.loss(heads.text, batch)
            loss = loss + config.unimodal * (image.mean() + text.mean())
        if config.contrastive > 0:
            contrastive = contrastive_loss(latents, batch.targets, config.temperature)
            loss = loss + config.contrastive * contrastive
            values["loss_contrastive"] = contrastive.detach()
        for decoder in extra:
            reconstruction = reconstruction_loss(decoder, logits, latents)
            loss = loss + config.ceb * reconstruction
            values["loss_ceb"] = reconstruction.detach()
        if backbone.kind == "classifier":  # contributions of a vlm are token embeddings
            values |= contribution_norms(parts)
        return loss, values

    fit(backbone, data, meter, step, seed=seed, extra=extra, state=[generator])


def check_terms(config: Config) -> None:
    """Refuse the terms that need pooled latents or separate encoders."""
    for name in ("contrastive", "ceb", "pretrain"):
        if asdict(config)[name] > 0:
            raise UserError(
                f"{name}={asdict(config)[name]}: a vision-language model has no pooled latents or "
                f"separate encoders for this term; give {name}=0."
            )


def game_term(
    backbone: Backbone,
    latents: Latents,
    parts: Latents,
    logits: Tensor,
    order: Tensor,
    config: Config,
) -> StepResult:
    """Return zero with the gradient of the MIPD term at the players, and both J to log.

    Raises:
        UserError: no player has a trainable parameter.
    """
    ends = parts if config.detach == "contribution" else latents
    encoders_only = config.players == "sides"
    if encoders_only and not any(ends.of(modality).requires_grad for modality in MODALITIES):
        raise UserError(
            "players='sides': nothing before the language model is trainable here; give "
            "players=whole, or train all weights (backbone option tune=full)."
        )
    # The gradient of the language model's weights would be computed, charged and thrown away. That
    # of a classifier's head is cheap and is charged.
    without_weights = encoders_only and backbone.kind == "vlm"
    with frozen_parameters(backbone) if without_weights else nullcontext():
        image, text = mipd(backbone.fuse, parts, logits, order, config.game, backbone.multi_label)
        values: dict[str, Tensor | float] = {"J_image": image.detach(), "J_text": text.detach()}
        term = -config.mipd * (image + text)
        if not encoders_only:
            # The value 0, with the gradient of the term.
            return term - term.detach(), values
        gradient = gradient_at(term, ends)
    zero = torch.zeros((), dtype=logits.dtype, device=logits.device)
    return carry(zero, ends, gradient), values


def permutations(draws: int, rows: int, generator: torch.Generator) -> Tensor:
    """Draw independent uniform permutations of the rows: [draws * rows] int64."""
    # The order of independent uniform keys is a uniform permutation; in double precision hardly any
    # keys are equal.
    keys = torch.rand(draws, rows, generator=generator, dtype=torch.float64)
    return keys.argsort(dim=1).flatten()


def mipd(
    fuse: Callable[[Latents], Tensor],
    parts: Latents,
    reference: Tensor,
    order: Tensor,
    game: Game,
    multi_label: bool,
) -> tuple[Tensor, Tensor]:
    """Return J_image and J_text: mean JSD of the prediction and that with a modality permuted.

    With k = -1, 0, +1 for the greedy, independent and collaborative game,

        d(J_image + J_text) / d image  =  dJ_image / d image  +  k dJ_text / d image

    and the same with image and text exchanged. The paper writes this as four fused passes on
    separately detached copies, of which two pairs are equal in value. Here each term is evaluated
    once, and the gradient of the modality that is *not* permuted in it is multiplied by k. The
    reference is detached: in the greedy game its gradient cancels, in the others it would reach the
    wrong player.

    ``parts`` are contributions [B, ...], ``reference`` the ordinary logits, one row per decision,
    and ``order`` holds K permutations [K * B].
    """
    rows = len(parts.image)
    draws = len(order) // rows
    # Rows of ``selectable``: a part, and behind it the part with its gradient multiplied by k.
    ordinary = torch.arange(rows, 2 * rows, device=order.device).repeat(draws)
    images, texts = torch.cat([order, ordinary]), torch.cat([ordinary, order])

    def selectable(part: Tensor) -> Tensor:
        # Exact in floating point for k in {-1, 0, 1}.
        return torch.cat([part, torch.lerp(part.detach(), part, SIGN[game])])

    context = parts.context
    if context is not None:
        context = context.select(ordinary.repeat(2) % rows, images % rows, texts % rows)
    image = selectable(parts.image).index_select(0, images)
    text = selectable(parts.text).index_select(0, texts)
    logits = fuse(Latents(image, text, context))
    logits = logits.view(2, draws, len(reference), -1)
    image, text = jensen_shannon(logits, reference.detach(), multi_label).mean(dim=(1, 2))
    return image, text


def contrastive_loss(latents: Latents, targets: Tensor, temperature: float) -> Tensor:
    """Return L_con of latents [B, D]; targets are classes [B] or 0/1 labels [B, C]; scalar."""
    # Rows 0..B are images and B..2B texts of the same items, hence ``repeat(2, 2)`` below.
    both = nn.functional.normalize(torch.cat([latents.image, latents.text]), dim=1)
    similarity = both @ both.T / temperature
    shared = targets[:, None] == targets if targets.dim() == 1 else targets @ targets.T > 0
    # An item without any label is a positive of itself.
    same = shared.fill_diagonal_(True).repeat(2, 2)
    # Finite, so that a batch with a single label has a defined gradient.
    excluded = torch.finfo(similarity.dtype).min
    negatives = similarity.masked_fill(same, excluded).logsumexp(dim=1, keepdim=True)
    pairs = same.clone().fill_diagonal_(False)
    # -log(p / (p + n)) = softplus(log n - log p), without overflow.
    return nn.functional.softplus((negatives - similarity).masked_select(pairs)).mean()


def reconstruction_loss(decoder: nn.Module, logits: Tensor, latents: Latents) -> Tensor:
    """Return L_ceb of latents [B, D] and logits [B, C]; scalar."""
    both = torch.cat([latents.image, latents.text], dim=1)
    return nn.functional.mse_loss(decoder(logits.detach()), both)


def latent_decoder(backbone: Backbone, classes: int, seed: int) -> nn.Sequential:
    """Return a decoder of logits [B, C] into both latents [B, 2D], on the backbone's device."""
    width = backbone.width
    # A private stream: the decoder must not shift the random numbers of the training.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = nn.Sequential(
            nn.Linear(classes, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, 2 * width, bias=False),
        )
    return decoder.to(next(backbone.parameters()))


@torch.no_grad()
def contribution_norms(parts: Latents) -> dict[str, Tensor | float]:
    """Return the mean norm of each modality's contributions around their batch mean, to log."""
    both = torch.stack([parts.image, parts.text])
    norms = (both - both.mean(1, keepdim=True)).norm(dim=2).mean(1)
    return {"norm_image": norms[0], "norm_text": norms[1]}
