"""TRL's online trainers on rows of this package: any family, any mixture of images.

TRL 1.16 passes on the image arguments of the families that it knows, and needs an image in every
row of a batch or in none. So it gets no image: the prompt of a row is its number, as text and as
its only token. Answers are sampled by the backbone, rewarded as they are scored in an evaluation,
and joined to their prompts as in the offline trainers. Advantages, losses and logs are TRL's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.options import read_values
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training import generation
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import online, trl, trl_data, vllm
from steelyard.methods._preference.online import BlockSampler, Sampling, StreamRow
from steelyard.tasks.answers import without_reasoning

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Answer:
    """Sampled or stored answer to the question of a row, with its rewards by name."""

    row: int
    tokens: tuple[int, ...]
    rewards: Mapping[str, float]
    log_probs: tuple[float, ...] = ()
    """Of the tokens, by an engine that returns them."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """Everything that a trainer needs to answer its rows."""

    backbone: Vlm
    data: TrainData
    meter: Meter
    config: Sampling
    rows: Sequence[StreamRow]
    sampler: BlockSampler
    prompt_at: trl_data.PromptAt
    turn_at: Callable[[int], tuple[str, Sequence[str]]]
    """Right answer and choices of the training example at a position."""


class RowTrainer:
    """Mixin of ``GRPOTrainer`` and ``RLOOTrainer``; ``source`` is set before training."""

    source: RowSource
    _answers: Sequence[Answer] = ()
    # Of TRL's trainers.
    accelerator: Any
    num_generations: int
    use_vllm: bool
    reward_func_names: Sequence[str]
    _metrics: dict[str, dict[str, list[float]]]

    def _tokenize_prompts(
        self, prompts: Sequence[str]
    ) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [[int(number)] for number in prompts], None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.prompts = ranks.world() * len(inputs) // self.num_generations
        self.source.meter.afford_step(self.prompts)
        self._answers = self.answers_to([int(row["prompt"]) for row in inputs])
        rows = [{"prompt": str(answer.row)} for answer in self._answers]
        output: dict[str, Any] = super()._generate_and_score_completions(rows)  # type: ignore[misc]
        if "num_items_in_batch" in output:  # of losses over all tokens of a step
            output["num_items_in_batch"] = ranks.mean_tensor(output["num_items_in_batch"])
        return output

    def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *group: int) -> Any:
        tokens = [list(answer.tokens) for answer in self._answers]
        if not group:
            return tokens
        # GRPO's has a further argument, and also returns log-probabilities, which only vLLM has;
        # TRL takes NaN for unknown.
        known = (a.log_probs or (NAN,) * len(a.tokens) for a in self._answers)
        return tokens, list(map(list, known)) if self.use_vllm else None

    def _calculate_rewards(self, *columns: Any) -> Tensor:
        rewards = [[a.rewards.get(n, NAN) for n in self.reward_func_names] for a in self._answers]
        return torch.tensor(rewards, device=self.accelerator.device)

    def answers_to(self, rows: Sequence[int]) -> list[Answer]:
        """Sample a group of answers to each question; replace questions whose groups are flat.

        A group is flat if all its answers got the same reward, so that none is better than another.
        A question with a flat group is replaced by the next of the order, in at most ``resample``
        rounds: the dynamic sampling of DAPO (arXiv 2503.14476), with an end.
        """
        config, sampler = self.source.config, self.source.sampler
        groups = self.sample(rows[:: config.group])
        flat = [index for index, group in enumerate(groups) if is_flat(group)]
        self.note("flat_groups", len(flat) / len(groups))
        for _ in range(config.resample):
            # The order of rows is that of all ranks: each draws for all, and takes its part.
            counts = ranks.gather(len(flat))
            if not any(counts):
                break
            drawn = sampler.draw(0, sum(counts))[sum(counts[: ranks.rank()]) :][: len(flat)]
            for group in self.sample(drawn) if drawn else []:
                if not is_flat(group):
                    groups[flat.pop()] = group
        return [answer for group in groups for answer in group]

    def sample(self, questions: Sequence[int]) -> list[list[Answer]]:
        """Sample a group of answers to each of these rows; charged to ``rollout``."""
        source, config, group = self.source, self.source.config, self.source.config.group
        starts = range(0, group * len(questions), group)
        positions = [source.rows[row].position for row in questions]
        with source.meter.phase("rollout"):
            batch = source.data.gather(positions)
            if self.use_vllm:
                inputs = [source.data.turn(position).inputs for position in positions]
                with source.meter.audit.unseen():  # an engine in this process
                    sampled, log_probs = vllm.sample(self, batch, inputs, group)
                groups = [sampled[start : start + group] for start in starts]
                generation.charge(source.backbone, source.meter, batch, groups)
            else:
                options = (config.max_tokens, config.temperature, group)
                sampled = generation.continuations(source.backbone, source.meter, batch, *options)
                log_probs = [[]] * len(sampled)
        rows = [row for row in questions for _ in range(group)]
        answers = [
            Answer(row, tuple(ids), self.rewards(row, ids), tuple(values))
            for row, ids, values in zip(rows, sampled, log_probs, strict=True)
        ]
        return [answers[start : start + group] for start in starts]

    def rewards(self, row: int, ids: Sequence[int]) -> dict[str, float]:
        """Return the rewards of a sampled answer."""
        source = self.source
        right, choices = source.turn_at(source.rows[row].position)
        # Not TRL's own texts, in which tags of reasoning may be lost as special tokens.
        text = without_reasoning(source.backbone.decode(ids))
        rewards = {"correctness": online.correctness(text, right)}
        if source.config.format_reward:
            finished = ids[-1] in source.backbone.eos_ids
            rewards["form"] = online.form(text, choices, finished)
        return rewards

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **ignored: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Return log-probabilities and entropies [N, A] of answers that follow their row's number.

        They are zero at padding. ``batch_size`` rows go through the model at a time.
        """
        answers, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:].bool()
        columns = []
        for part in torch.split(torch.arange(len(input_ids)), batch_size or len(input_ids)):
            positions = (self.source.rows[row].position for row in input_ids[part, 0].tolist())
            tokens = [ids[m].tolist() for ids, m in zip(answers[part], mask[part], strict=True)]
            prompts = [self.source.prompt_at(position) for position in positions]
            joined = trl_data.join(prompts, tokens, self.source.backbone.prompts.pad_id)
            inputs = {name: value.to(input_ids.device) for name, value in joined.items()}
            answered = inputs.pop("completion_mask").bool()
            labels = inputs["input_ids"].masked_fill(~answered, trl_data.IGNORED)
            with self.accelerator.autocast():
                output = model(**inputs, labels=labels, fused_lm_head=True)
            # Outputs are about the next token.
            columns += [(output.log_probs[answered[:, 1:]], output.entropy[answered[:, 1:]])]
        log_probs, entropies = (torch.cat(column) for column in zip(*columns, strict=True))

        def scatter(values: Tensor) -> Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        return scatter(log_probs), scatter(entropies) if compute_entropy else None, None

    def note(self, name: str, value: float) -> None:
        """Log a value of this step."""
        self._metrics["train"][name].append(value)


def is_flat(group: Sequence[Answer]) -> bool:
    """Return True if all answers of a group got the same sum of rewards."""
    return len({sum(answer.rewards.values()) for answer in group}) == 1


@contextmanager
def online_trainer(
    trainer_class: Callable[..., Any],
    config_class: type[Any],
    backbone: Vlm,
    data: TrainData,
    meter: Meter,
    config: Sampling,
    seed: int,
    *,
    rows: Sequence[StreamRow] | None = None,
    mix: float = 0.0,
    rewards: Sequence[Callable[..., Any]] = (),
    **settings: Any,
) -> Iterator[Any]:
    """Open a workspace with a ``RowTrainer`` on these rows, by default ``online_rows``.

    ``mix`` is the fraction of offline batches. ``rewards`` name rewards of stored answers.
    ``settings`` are further arguments of ``config_class``.
    """
    config.check_batch(backbone.recipe.batch_size)
    rows = online.online_rows(data) if rows is None else rows
    size, order = backbone.recipe.batch_size, seed_for(seed, "online", "order")
    passes = trl.passes(backbone, size)["gradient_accumulation_steps"]
    sampler = BlockSampler(online.pools(rows, config.group, mix), size, order, passes)
    use_vllm = read_values(config_class, backbone.trainer_settings).get("use_vllm")
    form = [online.form] if config.format_reward else []
    with trl.workspace(backbone) as folder:
        # TRL would load the model that its configuration names, which is not the start of this run
        # and not watched; with beta 0 it loads none. Under LoRA ``reference`` is None, and TRL's
        # second adapter is a copy of the start.
        reference = trl.reference_copy(backbone) if config.beta else None
        settings = {
            "num_generations": config.group,
            "temperature": config.temperature,
            "max_completion_length": config.max_tokens,
            "beta": config.beta if reference is None else 0.0,
            # One update per sampled batch: the policy that sampled is the policy itself.
            "num_iterations": 1,
            "log_completions": False,
            "epsilon": config.clip,
            **(vllm.settings(backbone) if use_vllm else {}),
            **settings,
        }
        trainer = trainer_class(
            model=backbone.model,
            # For their names, under which TRL logs the rewards.
            reward_funcs=[online.correctness, *form, *rewards],
            args=trl.arguments(config_class, backbone, seed, folder, **settings),
            train_dataset=numbered(len(rows)),
            processing_class=backbone.processor,
        )
        if reference is not None:
            trainer.ref_model, trainer.beta = reference, config.beta

        texts = attrgetter("answer", "choices")  # without the image
        turn_at = cache(lambda position: texts(data.turn(position)))
        prompts = trl_data.prompts_of(backbone, data)
        trainer.source = RowSource(backbone, data, meter, config, rows, sampler, prompts, turn_at)
        yield trainer


def numbered(count: int) -> Any:
    """Return a ``datasets.Dataset`` whose prompts are the numbers of its rows."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [str(number) for number in range(count)]})
