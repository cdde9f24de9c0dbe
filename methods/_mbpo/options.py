"""Options of MBPO, and the faults for which a mined answer can be dropped."""

from dataclasses import dataclass
from typing import Literal, get_args

from steelyard.harness.core.errors import unknown
from steelyard.harness.core.options import require
from steelyard.methods._preference.online import Sampling

Reference = Literal["removed", "black", "noise"]
Fault = Literal["same", "unfinished", "repetition", "refusal", "length", "grounded"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(frozen=True, slots=True)
class MbpoOptions(Sampling):
    """Options of MBPO: mining, mixture of the streams, and losses beside those of GRPO."""

    mining: Literal["adversarial", "noise", "blank", "no_image"] = "adversarial"
    """Replacement of the image that makes the model answer wrongly."""
    iig: bool = True
    """Mine the items whose right answer needs the image most."""
    iig_top: float = 0.5
    """Fraction of items to mine within each subset."""
    iig_reference: Reference = "removed"
    stream: Literal["hybrid", "offline", "online"] = "hybrid"
    mix: float = 0.5
    """Fraction of offline batches in the hybrid."""
    offline_weight: float = 1.0
    """Factor on the advantages of the pairs."""
    nll_anchor: float = 0.0
    """Weight of the negative log-likelihood of the right answers of pairs."""
    epsilon: float = 16 / 255
    """Largest change of a pixel, as a fraction of the range."""
    step: float = 2 / 255
    steps: int = 10
    random_start: bool = True
    mine_temperature: float = 0.0
    """Of the answer to the attacked image; 0 is greedy."""
    mine_limit: int = 1000
    """Maximum number of items to score and mine."""
    mine_share: float = 0.3
    """Fraction of the budget for scoring and mining; after ``warmup``, of the remaining budget."""
    filters: str = ",".join(FAULTS)
    """Faults for which a mined answer is dropped, comma-separated."""
    warmup: float = 0.5
    """Classifier only: fraction of the budget for joint training before preferences begin."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)  # super() fails in a dataclass with slots
        parse_faults(self.filters)
        for name in ("mix", "mine_share", "warmup", "epsilon", "step"):
            require(self, name, 0 < getattr(self, name) < 1, "a number between 0 and 1")
        top = "a fraction in (0, 1]; iig=false mines all items"
        require(self, "iig_top", 0 < self.iig_top <= 1, top)
        for name in ("steps", "mine_limit"):
            require(self, name, getattr(self, name) >= 1, "at least 1")


def parse_faults(text: str) -> frozenset[Fault]:
    """Read fault names from a comma-separated option; refuse unknown names."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FAULTS:
            raise unknown("filter", name, FAULTS)
    return frozenset(fault for fault in FAULTS if fault in names)
