"""MCR's game on a vision-language model: right permutations, right recipients, right signs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_vlms
import torch
import vlm_toys
from PIL import Image
from torch import Tensor

from steelyard import methods
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs, Turn
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.backbone import Latents
from steelyard.harness.models.pgd import frozen_parameters
from steelyard.harness.models.vlm import Vlm
from steelyard.methods import mcr
from steelyard.methods._shared.divergences import jensen_shannon
from steelyard.methods.mcr import SIGN, Game, mipd
from steelyard.tasks.world.language import ASK, prompt
from steelyard.tasks.world.prior import BASE_PRIOR, compose
from steelyard.tasks.world.scenes import draw

ROWS = 5
ORDER = torch.tensor([1, 2, 3, 4, 0, 3, 1, 0, 2, 4])  # two draws, some rows fixed
GAMES: tuple[Game, ...] = ("greedy", "independent", "collaborative")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


def collated(model: Vlm, turns: list[Turn], image: Tensor, text: Tensor) -> Tensor:
    """Logits of a batch typed anew: row i with image ``image[i]``, prompt ``text[i]``."""
    inputs = [
        replace(turns[t].inputs, image=turns[i].inputs.image)
        for i, t in zip(image.tolist(), text.tolist(), strict=True)
    ]
    return model.predict(model.collate(inputs, [turn.answer for turn in turns]))


def config(**options: methods.Option) -> mcr.Config:
    configured = methods.configure(methods.load("mcr"), options, "vlm")
    assert isinstance(configured, mcr.Config)
    return configured


def both_j(
    model: Vlm, game: Game = "collaborative", order: Tensor = ORDER
) -> tuple[Tensor, Tensor, Latents]:
    """J and tensors of both modalities."""
    latents = model.encode(vlm_toys.batch(model, ROWS))
    image, text = mipd(model.fuse, latents, model.fuse(latents), order, game, False)
    return image, text, latents


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_j_is_the_divergence_from_prompts_rendered_with_exchanged_modalities(
    family: str, root: Path
) -> None:
    model = vlm_toys.build(family, root).eval()
    turns = vlm_toys.turns(ROWS)
    assert len({turn.inputs.prompt for turn in turns}) > 2
    plain = torch.arange(ROWS)
    with torch.no_grad():
        reference = collated(model, turns, plain, plain)
        exchanged = [
            [collated(model, turns, draw, plain) for draw in ORDER.view(2, ROWS)],
            [collated(model, turns, plain, draw) for draw in ORDER.view(2, ROWS)],
        ]
        expected = [
            torch.stack(
                [jensen_shannon(logits, reference, False).mean() for logits in modality]
            ).mean()
            for modality in exchanged
        ]
        image, text, _ = both_j(model)
    assert min(expected) > 1e-3
    torch.testing.assert_close(torch.stack([image, text]), torch.stack(expected), rtol=1e-4, atol=0)


def test_identity_permutation_loses_nothing(root: Path) -> None:
    image, text, _ = both_j(vlm_toys.build("llava", root), order=torch.arange(ROWS).repeat(2))
    assert abs(image.item()) < 1e-6 and abs(text.item()) < 1e-6


@pytest.mark.usefixtures("short_base")
def test_the_trained_base_loses_by_a_shuffled_picture_and_not_by_one_nobody_sees() -> None:
    model = vlm_build.build(
        "tiny-vlm", vlm_config.configure("tiny-vlm", {}), seed=0, device="cpu"
    ).eval()
    rng, prior = np.random.default_rng(0), BASE_PRIOR
    scenes = [compose(prior, rng) for _ in range(24)]
    questions = [ASK["colour"](scene, prior, rng) for scene in scenes]
    inputs = [
        Inputs(Image.fromarray(draw(scene, rng)), question.text, prompt(question))
        for scene, question in zip(scenes, questions, strict=True)
    ]
    latents = model.encode(model.collate(inputs, [question.answer for question in questions]))
    order = torch.arange(24).roll(1)
    with torch.no_grad():
        with_image, _ = mipd(model.fuse, latents, model.fuse(latents), order, "greedy", False)
        blanked = model.blank(latents, "image")
        without_image, _ = mipd(model.fuse, blanked, model.fuse(blanked), order, "greedy", False)
    assert with_image > 0.05
    assert abs(without_image.item()) < 1e-6


def reached(model: Vlm, loss: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), allow_unused=True, retain_graph=True
    )
    return {n: g for n, g in zip(parameters, gradients, strict=True) if g is not None}


@pytest.mark.parametrize("players", ["sides", "whole"])
@pytest.mark.parametrize("game", GAMES)
def test_a_player_raises_its_j_and_k_times_the_other(game: Game, players: str, root: Path) -> None:
    model = vlm_toys.build("llava", root)
    image, text, latents = both_j(model)
    image_gradients = torch.autograd.grad(image, (latents.image, latents.text), retain_graph=True)
    text_gradients = torch.autograd.grad(text, (latents.image, latents.text), retain_graph=True)
    k = SIGN[game]
    expected = (
        -(image_gradients[0] + k * text_gradients[0]),
        -(text_gradients[1] + k * image_gradients[1]),
    )
    options = config(game=game, players=players, mipd=1.0)
    logits = model.fuse(latents)
    term, values = mcr.game_term(model, latents, latents, logits, ORDER, options)
    gradients = torch.autograd.grad(term, (latents.image, latents.text), retain_graph=True)
    assert term.item() == 0.0
    assert values["J_image"] == image
    for gradient, target in zip(gradients, expected, strict=True):
        assert target.abs().max() > 1e-6
        torch.testing.assert_close(gradient, target, rtol=1e-3, atol=1e-7)


def test_who_takes_part(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    image, text, latents = both_j(model, "greedy")
    logits = model.fuse(latents)
    reached_by = {
        players: reached(
            model, mcr.game_term(model, latents, latents, logits, ORDER, config(players=players))[0]
        )
        for players in ("sides", "whole")
    }
    modalities = set(reached_by["sides"])
    assert all("projector" in name or "embed_tokens" in name for name in modalities)
    assert len(modalities) == 5
    language = next(name for name in reached_by["whole"] if "layers.0.mlp.up_proj" in name)
    expected = reached(model, -config().mipd * (image + text))[language]
    assert expected.abs().max() > 1e-7
    torch.testing.assert_close(reached_by["whole"][language], expected, rtol=1e-4, atol=1e-8)
    projector = next(name for name in modalities if "projector" in name)
    torch.testing.assert_close(reached_by["whole"][projector], reached_by["sides"][projector])


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("game", GAMES)
def test_the_language_model_descends_the_sum_of_both_terms(
    game: Game, family: str, root: Path
) -> None:
    """Against prompts rendered with the exchanged images and with the exchanged questions."""
    model = vlm_toys.build(family, root)
    turns, plain = vlm_toys.turns(ROWS), torch.arange(ROWS)
    reference = collated(model, turns, plain, plain).detach()
    draws = ORDER.view(2, ROWS)
    terms = [
        jensen_shannon(collated(model, turns, *pair), reference, False).mean()
        for draw in draws
        for pair in ((draw, plain), (plain, draw))
    ]
    expected = reached(model, -0.3 * torch.stack(terms).sum() / len(draws))
    latents = model.encode(vlm_toys.batch(model, ROWS))
    term, _ = mcr.game_term(
        model, latents, latents, model.fuse(latents), ORDER, config(game=game, mipd=0.3)
    )
    gradients = reached(model, term)
    language = [n for n in gradients if "language_model.layers" in n or "lm_head" in n]
    assert len(language) > 15
    for name in language:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("family", tiny_vlms.cells())
def test_it_trains_on_photos_of_unequal_size(family: str, root: Path) -> None:
    """Some items show several images and some none."""
    model = vlm_toys.build(family, root)
    meter = vlm_toys.train(model, "mcr", 2e9, uneven=True)
    assert meter.steps >= 2
    assert meter.diagnostics["J_image"] > 1e-3 and meter.diagnostics["J_text"] > 1e-3


def test_under_an_adapter_only_the_whole_can_play(root: Path) -> None:
    model = vlm_toys.build("llava", root, tune="lora")
    latents = model.encode(vlm_toys.batch(model, ROWS))
    logits = model.fuse(latents)
    with pytest.raises(UserError, match="players=whole"):
        mcr.game_term(model, latents, latents, logits, ORDER, config(players="sides"))
    term, _ = mcr.game_term(model, latents, latents, logits, ORDER, config())
    gradients = reached(model, term)
    assert gradients and all("lora" in name for name in gradients)


def test_parameters_are_frozen_only_inside_even_after_an_error(root: Path) -> None:
    model = vlm_toys.build("llava", root)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ValueError), frozen_parameters(model):
        assert not any(p.requires_grad for p in model.parameters())
        raise ValueError
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert len(set(before.values())) == 2, "the frozen vision tower stays frozen"


@pytest.mark.parametrize("options", [{"contrastive": 1.0}, {"ceb": 0.5}, {"pretrain": 0.2}])
def test_terms_for_pooled_latents_are_refused(
    options: dict[str, methods.Option], root: Path
) -> None:
    model = vlm_toys.build("llava", root)
    with pytest.raises(UserError, match=f"{next(iter(options))}=0"):
        vlm_toys.train(model, "mcr", 1e9, **options)


@pytest.mark.parametrize("sizes", [{"batch_size": 1}, {"batch_size": 7, "micro_batch_size": 4}])
def test_passes_of_one_item_are_refused(sizes: dict[str, methods.Option], root: Path) -> None:
    model = vlm_toys.build("llava", root, **sizes)
    with pytest.raises(UserError, match="permutes the items of a pass"):
        vlm_toys.train(model, "mcr", 1e9)
    assert vlm_toys.train(model, "mcr", 2e8, mipd=0.0).steps > 0


def test_the_sign_of_the_game_moves_the_loss_of_a_shuffled_image(root: Path) -> None:
    def trained(weight: float) -> float:
        model = vlm_toys.build("llava", root)
        vlm_toys.train(model, "mcr", 2e9, mipd=weight, unimodal=0.0, game="independent")
        with torch.no_grad():
            return both_j(model)[0].item()

    lowered, raised = trained(-20.0), trained(20.0)
    assert raised > 1.2 * lowered


def test_without_its_terms_it_is_joint_training_bit_for_bit(root: Path) -> None:
    weights = []
    for name, options in (("joint", {}), ("mcr", {"mipd": 0.0, "unimodal": 0.0})):
        model = vlm_toys.build("llava", root)
        method = methods.load(name)
        data, meter = vlm_toys.train_data(model), vlm_toys.watched(model, 5e8)
        options_set = methods.configure(method, options, "vlm") if options else method.Config()
        with meter, pytest.raises(vlm_toys.BudgetSpent):
            method.train(model, data, meter, options_set, 0)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*weights)
