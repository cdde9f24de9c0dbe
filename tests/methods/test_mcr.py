"""MCR against its equations, in float64 on small perceptrons."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from synthetic_study import MLPBackbone, batch_of, fit_method, train_data
from torch import Tensor

from steelyard.harness.core.errors import UserError
from steelyard.harness.models.backbone import Batch, Latents, Recipe
from steelyard.methods import mcr
from steelyard.methods._shared.divergences import jensen_shannon, kullback_leibler
from steelyard.methods.mcr import SIGN, Game, mipd, permutations

ROWS, INPUTS, WIDTH, CLASSES, DRAWS = 12, 6, 8, 4, 5
GAMES: tuple[Game, ...] = ("greedy", "independent", "collaborative")
HEADS: tuple[Literal["additive", "concat"], ...] = ("additive", "concat")
ZERO = {"mipd": 0.0, "unimodal": 0.0, "contrastive": 0.0, "ceb": 0.0}


def small(head: Literal["additive", "concat"], multi_label: bool = False) -> MLPBackbone:
    recipe = Recipe(learning_rate=3e-3, batch_size=ROWS)
    backbone = MLPBackbone(
        3,
        inputs=INPUTS,
        width=WIDTH,
        classes=CLASSES,
        head=head,
        multi_label=multi_label,
        recipe=recipe,
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(2.0)  # so that the few inputs of a test make clearly unequal outputs
    return backbone.double()


def tensors(rows: int = ROWS, multi_label: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(rows, 2, INPUTS, generator=generator, dtype=torch.float64)
    if multi_label:
        return values, (torch.rand(rows, CLASSES, generator=generator) < 0.4).double()
    return values, torch.randint(CLASSES, (rows,), generator=generator)


def batch(multi_label: bool = False) -> Batch:
    return batch_of(*tensors(multi_label=multi_label))


def order() -> Tensor:
    return permutations(DRAWS, ROWS, torch.Generator().manual_seed(7))


def four_terms(
    backbone: MLPBackbone, parts: Latents, reference: Tensor, index: Tensor, game: Game
) -> Tensor:
    """Regulariser as in the paper's code: separate copies, some of them detached."""
    plain = torch.arange(ROWS).repeat(DRAWS)
    u, v = parts.image, parts.text

    def j(image: Tensor, text: Tensor) -> Tensor:
        logits = backbone.fuse(Latents(image, text))
        return jensen_shannon(logits, reference[plain], backbone.multi_label).mean()

    if game == "collaborative":
        return -j(u[index], v[plain]) - j(u[plain], v[index])
    own_image = j(u[index], v[plain].detach())
    own_text = j(u[plain].detach(), v[index])
    if game == "independent":
        return -own_image - own_text
    other_image = j(u[plain], v[index].detach())
    other_text = j(u[index].detach(), v[plain])
    return -own_image + other_image - own_text + other_text


def gradients(loss: Tensor, backbone: MLPBackbone) -> dict[str, Tensor | None]:
    parameters = dict(backbone.named_parameters())
    values = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, retain_graph=True
    )
    return dict(zip(parameters, values, strict=True))


def player(name: str) -> bool:
    """Parameters of the two players when a player is encoder plus its half of the head."""
    return name.startswith(("encoders", "embeddings", "halves"))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("game", GAMES)
def test_players_get_the_gradient_of_the_four_terms(
    game: Game, head: Literal["additive", "concat"], multi_label: bool
) -> None:
    backbone = small(head, multi_label)
    latents = backbone.encode(batch(multi_label))
    parts = backbone.contribute(latents)
    logits = backbone.fuse(parts)
    config = mcr.Config(game=game, mipd=0.7)
    term, _ = mcr.game_term(backbone, latents, parts, logits, order(), config)
    reference = 0.7 * four_terms(backbone, parts, logits.detach(), order(), game)
    mine, theirs = gradients(term, backbone), gradients(reference, backbone)
    for name in filter(player, mine):
        a, b = mine[name], theirs[name]
        assert a is not None and b is not None
        assert b.abs().max() > 1e-5
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("game", GAMES)
def test_encoder_gradient_is_own_term_plus_k_times_the_other(game: Game) -> None:
    backbone = small("concat")
    latents = backbone.encode(batch())
    parts = backbone.contribute(latents)
    logits = backbone.fuse(parts)
    image, text = mipd(backbone.fuse, parts, logits, order(), "collaborative", False)
    image_term, text_term = gradients(-image, backbone), gradients(-text, backbone)
    config = mcr.Config(game=game, mipd=1.0)
    got = gradients(mcr.game_term(backbone, latents, parts, logits, order(), config)[0], backbone)
    for name in got:
        if not player(name):
            continue
        mine, theirs = (image_term, text_term) if "image" in name else (text_term, image_term)
        a, b, c = mine[name], theirs[name], got[name]
        assert a is not None and b is not None and c is not None
        torch.testing.assert_close(c, a + SIGN[game] * b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("detach", ["contribution", "latent"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("game", GAMES)
def test_shared_parameters_stay_out_of_every_game(
    game: Game,
    head: Literal["additive", "concat"],
    detach: Literal["contribution", "latent"],
) -> None:
    backbone = small(head)
    latents = backbone.encode(batch())
    parts = backbone.contribute(latents)
    config = mcr.Config(game=game, mipd=1.0, detach=detach)
    term, _ = mcr.game_term(backbone, latents, parts, backbone.fuse(parts), order(), config)
    reached = {name for name, value in gradients(term, backbone).items() if value is not None}
    encoders = {n for n in reached if n.startswith(("encoders", "embeddings"))}
    halves = {"halves.image.weight", "halves.text.weight"}
    assert len(encoders) == 2 * (3 * 2 + 2)
    assert reached - encoders == (halves if detach == "contribution" else set())


def test_the_latent_cut_gives_encoders_the_same_gradient() -> None:
    backbone = small("concat")
    latents = backbone.encode(batch())
    parts = backbone.contribute(latents)
    logits = backbone.fuse(parts)
    results = [
        gradients(
            mcr.game_term(backbone, latents, parts, logits, order(), mcr.Config(detach=detach))[0],
            backbone,
        )
        for detach in ("contribution", "latent")
    ]
    for name in results[1]:
        a, b = results[0][name], results[1][name]
        if name.startswith("encoders"):
            assert a is not None and b is not None
            torch.testing.assert_close(a, b, rtol=0, atol=1e-15)


def test_greedy_value_is_zero_with_a_gradient_that_ignores_the_reference() -> None:
    backbone = small("additive")
    parts = backbone.contribute(backbone.encode(batch()))
    logits = backbone.fuse(parts)
    attached = four_terms(backbone, parts, logits, order(), "greedy")
    detached = four_terms(backbone, parts, logits.detach(), order(), "greedy")
    assert abs(attached.item()) < 1e-15
    a, b = gradients(attached, backbone), gradients(detached, backbone)
    first, second = a["embeddings.image.weight"], b["embeddings.image.weight"]
    assert first is not None and second is not None and first.abs().max() > 1e-6
    torch.testing.assert_close(first, second, rtol=0, atol=1e-15)


def test_an_attached_reference_would_change_the_independent_game() -> None:
    backbone = small("additive")
    parts = backbone.contribute(backbone.encode(batch()))
    logits = backbone.fuse(parts)
    name = "embeddings.image.weight"
    a, b = (
        gradients(four_terms(backbone, parts, reference, order(), "independent"), backbone)[name]
        for reference in (logits, logits.detach())
    )
    assert a is not None and b is not None
    assert (a - b).norm() > 0.1 * b.norm()


def test_the_carried_term_is_zero_in_value() -> None:
    backbone = small("additive")
    latents = backbone.encode(batch())
    parts = backbone.contribute(latents)
    for game in GAMES:
        config = mcr.Config(game=game)
        term, _ = mcr.game_term(backbone, latents, parts, backbone.fuse(parts), order(), config)
        assert term.item() == 0.0


def test_identity_permutation_loses_nothing() -> None:
    backbone = small("concat")
    parts = backbone.contribute(backbone.encode(batch()))
    identity = torch.arange(ROWS).repeat(DRAWS)
    image, text = mipd(backbone.fuse, parts, backbone.fuse(parts), identity, "greedy", False)
    assert abs(image.item()) < 1e-15 and abs(text.item()) < 1e-15


@pytest.mark.parametrize("head", HEADS)
def test_permuting_latents_is_permuting_contributions(head: Literal["additive", "concat"]) -> None:
    backbone = small(head)
    latents = backbone.encode(batch())
    parts = backbone.contribute(latents)
    index = order()[:ROWS]
    late = backbone.fuse(Latents(parts.image[index], parts.text))
    early = backbone.fuse(backbone.contribute(Latents(latents.image[index], latents.text)))
    torch.testing.assert_close(late, early, rtol=0, atol=1e-15)


def test_jensen_shannon_by_hand() -> None:
    disjoint = torch.tensor([[1e4, 0.0]], dtype=torch.float64)
    assert jensen_shannon(disjoint, disjoint.flip(1), False).item() == pytest.approx(math.log(2))
    # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): JSD = ln 2 - H(3/4).
    p = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert jensen_shannon(p, p.flip(1), False).item() == pytest.approx(math.log(2) - entropy)
    # The same two Bernoulli variables on the first of two labels, equal on the second.
    yes = torch.tensor([[math.log(3.0), 0.5]], dtype=torch.float64)
    no = torch.tensor([[-math.log(3.0), 0.5]], dtype=torch.float64)
    assert jensen_shannon(yes, no, True).item() == pytest.approx((math.log(2) - entropy) / 2)


@pytest.mark.parametrize("multi_label", [False, True])
def test_jensen_shannon_stays_in_bounds_and_differentiable(multi_label: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-2, 4, 200, dtype=torch.float64)[:, None]
    logits = torch.randn(200, 5, generator=generator, dtype=torch.float64) * scale
    reference = torch.randn(200, 5, generator=generator, dtype=torch.float64) * scale
    logits.requires_grad_(True)
    value = jensen_shannon(logits, reference, multi_label)
    assert value.min() >= -1e-15 and value.max() <= math.log(2) + 1e-15
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(gradient.isfinite().all()) and gradient.abs().max() > 0.01
    near = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: jensen_shannon(x, reference[:4], multi_label), near)


def test_kullback_leibler_by_hand() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = ln 2 - H(3/4), and zero against itself.
    p = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert kullback_leibler(p, torch.zeros_like(p), False).item() == pytest.approx(expected)
    assert kullback_leibler(p, p, False).item() == 0.0
    assert kullback_leibler(p, torch.zeros_like(p), True).item() == pytest.approx(expected / 2)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("divergence", [jensen_shannon, kullback_leibler])
def test_divergences_of_half_precision_logits_are_computed_in_single_precision(
    divergence: Callable[..., Tensor], multi_label: bool
) -> None:
    """Of nearly equal predictions, where bf16 arithmetic is off by a factor."""
    generator = torch.Generator().manual_seed(2)
    first = (3 * torch.randn(64, 20, generator=generator)).bfloat16()
    second = (first + 0.02 * torch.randn(64, 20, generator=generator)).bfloat16()
    exact = divergence(first.double(), second.double(), multi_label)
    assert float(exact.mean()) < 1e-3
    value = divergence(first, second, multi_label)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=0.05, atol=1e-6)


def contrastive_by_loop(latents: Latents, same: Tensor, temperature: float) -> float:
    """NT-Xent with label positives, pair by pair."""
    rows = [z / z.norm() for z in (*latents.image, *latents.text)]
    items = len(latents.image)
    losses = []
    for a in range(len(rows)):
        against = [n for n in range(len(rows)) if not same[a % items, n % items]]
        for p in range(len(rows)):
            if p == a or not same[a % items, p % items]:
                continue
            up = math.exp(float(rows[a] @ rows[p]) / temperature)
            down = sum(math.exp(float(rows[a] @ rows[n]) / temperature) for n in against)
            losses.append(-math.log(up / (up + down)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.5, 0.1])
@pytest.mark.parametrize("multi_label", [False, True])
def test_contrastive_loss_equals_a_loop_over_pairs(multi_label: bool, temperature: float) -> None:
    values, targets = tensors(multi_label=multi_label)
    if multi_label:
        targets[0] = 0.0  # an item without labels is a positive of its other modality
    latents = Latents(values[:, 0], values[:, 1])
    same = torch.zeros(ROWS, ROWS, dtype=torch.bool)
    for a in range(ROWS):
        for b in range(ROWS):
            shared = (
                (targets[a] * targets[b]).sum() > 0 if multi_label else targets[a] == targets[b]
            )
            same[a, b] = bool(shared) or a == b
    assert 0 < same.sum() < ROWS * ROWS
    got = mcr.contrastive_loss(latents, targets, temperature).item()
    assert got == pytest.approx(contrastive_by_loop(latents, same, temperature), rel=1e-12)


def test_contrastive_loss_without_negatives_is_zero_with_finite_gradient() -> None:
    values = tensors()[0].requires_grad_(True)
    latents = Latents(values[:, 0], values[:, 1])
    loss = mcr.contrastive_loss(latents, torch.zeros(ROWS, dtype=torch.int64), 0.5)
    torch.autograd.backward(loss)
    assert loss.item() == 0.0
    assert values.grad is not None and bool((values.grad == 0).all())


def test_reconstruction_trains_encoders_and_decoder_but_not_the_prediction() -> None:
    backbone = small("concat")
    decoder = mcr.latent_decoder(backbone, CLASSES, seed=1)
    latents = backbone.encode(batch())
    logits = backbone.fuse(backbone.contribute(latents))
    loss = mcr.reconstruction_loss(decoder, logits, latents)
    target = torch.cat([latents.image, latents.text], dim=1)
    assert loss.item() == pytest.approx(((decoder(logits) - target) ** 2).mean().item())
    reached = {name for name, value in gradients(loss, backbone).items() if value is not None}
    assert reached and all(name.startswith(("encoders", "embeddings")) for name in reached)
    again = mcr.latent_decoder(backbone, CLASSES, seed=1)
    for parameter, repeated in zip(decoder.parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, repeated) and parameter.dtype == torch.float64


def test_permutations_are_uniform_permutations() -> None:
    index = permutations(2000, 6, torch.Generator().manual_seed(0)).view(2000, 6)
    assert torch.equal(index.sort(dim=1).values, torch.arange(6).expand(2000, 6))
    # A uniform permutation has one fixed point on average, with variance one.
    fixed = (index == torch.arange(6)).sum(dim=1).double().mean().item()
    assert abs(fixed - 1.0) < 4 / math.sqrt(2000)


def trained(
    name: str, options: dict[str, str | int | float | bool], flops: float = 1e7
) -> MLPBackbone:
    backbone = small("additive")
    data = train_data(*tensors(60), CLASSES, multi_label=False)
    fit_method(backbone, data, name, options, seed=0, flops=flops)
    return backbone


def test_without_its_terms_it_is_joint_training_bit_for_bit() -> None:
    joint, bare = trained("joint", {}), trained("mcr", {**ZERO})
    untrained = small("additive")
    for name, value in joint.state_dict().items():
        assert torch.equal(value, bare.state_dict()[name]), name
    changed = [
        n for n, v in joint.state_dict().items() if not torch.equal(v, untrained.state_dict()[n])
    ]
    assert len(changed) > 10


def test_the_sign_of_the_game_moves_both_j() -> None:
    def js(weight: float) -> tuple[float, float]:
        backbone = trained(
            "mcr", {**ZERO, "mipd": weight, "game": "collaborative", "draws": 4}, flops=1e7
        )
        parts = backbone.contribute(backbone.encode(batch()))
        values = mipd(backbone.fuse, parts, backbone.fuse(parts), order(), "collaborative", False)
        return values[0].item(), values[1].item()

    lowered, plain, raised = js(-1.0), js(0.0), js(1.0)
    assert lowered[0] < plain[0] < raised[0]
    assert lowered[1] < plain[1] < raised[1]


def test_pretraining_is_charged_to_the_teacher() -> None:
    backbone = small("concat")
    data = train_data(*tensors(60), CLASSES, multi_label=False)
    options = {"pretrain": 0.4, "ceb": 1.0, "draws": 2}
    meter = fit_method(backbone, data, "mcr", options, seed=0, flops=4e6)
    ledger = meter.ledger("budget")
    assert ledger.flops["teacher"] == pytest.approx(0.4 * 4e6, rel=0.05)
    assert ledger.total_flops <= 4e6
    assert {"J_image", "J_text", "loss_ceb", "norm_image"} <= set(meter.diagnostics)


def test_multi_label_training_stays_finite() -> None:
    backbone = small("concat", multi_label=True)
    data = train_data(*tensors(60, multi_label=True), CLASSES, multi_label=True)
    meter = fit_method(backbone, data, "mcr", {"draws": 2}, seed=0, flops=2e6)
    assert 0 < meter.diagnostics["J_image"] < math.log(2)


@pytest.mark.parametrize(
    "options", [{"pretrain": 1.0}, {"pretrain": -0.1}, {"draws": 0}, {"temperature": 0.0}]
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        mcr.Config(**options)  # type: ignore[arg-type]
