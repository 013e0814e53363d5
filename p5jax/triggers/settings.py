"""What is searched for and how hard; imports neither jax nor numpy, so that help is fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p5jax.core.settings import COUNT, SHARE, SIZE, Range, check
from p5jax.inference.settings import METHODS
from p5jax.triggers.layout import POSITIONS, TRIGGER_FAMILIES, USER_PLACES, Layout

CRITERIA = ("metric", "loss")
# What an ablation varies: setting -> the values that are compared.
ABLATIONS: Mapping[str, Sequence[str | int]] = {
    "position": POSITIONS,
    "user_place": USER_PLACES,
    "task_tokens": (3, 4, 5, 6, 7),
    "criterion": CRITERIA,
}
RANKED = 5  # positions of a ranking that count: HR@5 and NDCG@5


@dataclass(frozen=True)
class SurrogateConfig:
    """How a prompt is judged on an example (PAP-REC, section 4.4).

    The metric is HR@5 + `coefficient` * NDCG@5 for items, BLEU-4 + `coefficient` * ROUGE-L of the
    sentence for text, where the paper has 1 and .1; the loss, for the ablation, is the
    log-likelihood of the target.
    """

    criterion: str = field(
        default="metric",
        metadata={
            "help": "what judges a prompt: the metric of its answers, or the targets' loss",
            "choices": CRITERIA,
        },
    )
    coefficient: float = field(
        default=-1.0,
        metadata={"help": "weight of NDCG@5 or ROUGE-L; below 0: 1 and .1, as published"},
    )
    method: str = field(
        default="beam",
        metadata={"help": "how the catalogue is ranked", "choices": tuple(METHODS)},
    )
    beam: int = field(default=5, metadata={"help": "width of the ranking, or of the texts' beam"})
    batch_size: int = field(default=40, metadata={"help": "prompts scored together"})
    max_length: int = field(default=64, metadata={"help": "longest text generated, in tokens"})

    def __post_init__(self) -> None:
        check(
            self,
            criterion=CRITERIA,
            coefficient=Range(),
            method=METHODS,
            **dict.fromkeys(("beam", "batch_size", "max_length"), SIZE),
        )


@dataclass(frozen=True)
class SearchConfig:
    """What is searched for, and how hard.

    Epochs of shared tokens and of users' own alternate: one has as many rounds as there are shared
    tokens, the other as many as each user has. With an `accept_level` of 1 any improvement on the
    whole validation split is taken, as in the paper; below it the paired test is one-sided, on
    the half of the validation users that chose no candidate.
    """

    family: str = field(
        metadata={"help": "prompts of this family get the tokens", "choices": TRIGGER_FAMILIES}
    )
    layout: Layout = field(
        default_factory=Layout, metadata={"help": "how many trigger tokens, and where they stand"}
    )
    surrogate: SurrogateConfig = field(
        default_factory=SurrogateConfig, metadata={"help": "how a prompt is judged on an example"}
    )
    initial: str = field(
        default="random",
        metadata={
            "help": "the start: random words, a prompt's words (its id), or words given",
            "metavar": "random|ID|WORDS",
        },
    )
    candidates: int = field(default=5, metadata={"help": "tokens tried per position and round"})
    epochs: int = field(default=20, metadata={"help": "of shared and of users' tokens, in turn"})
    patience: int = field(
        default=4, metadata={"help": "epochs without a change after which the search ends"}
    )
    users: int = field(default=0, metadata={"help": "most validation users to use; 0: all"})
    gradient_examples: int = field(
        default=256, metadata={"help": "training examples of a shared token's gradient"}
    )
    evidence: int = field(
        default=3,
        metadata={
            "help": "training examples of each user, of different items, that choose the user's"
            " own tokens"
        },
    )
    accept_level: float = field(
        default=0.1,
        metadata={"help": "largest p-value of a change that is taken; 1 takes any improvement"},
    )
    racing_level: float = field(
        default=0.2,
        metadata={
            "help": "p-value at which a candidate is dropped early; 0 scores every candidate on"
            " every example"
        },
    )
    seed: int = field(
        default=0, metadata={"help": "of the start, the examples and the positions tried"}
    )

    def __post_init__(self) -> None:
        sizes = ("candidates", "epochs", "patience", "gradient_examples", "evidence")
        check(
            self,
            family=TRIGGER_FAMILIES,
            **dict.fromkeys(sizes, SIZE),
            users=COUNT,
            accept_level=SHARE,
            racing_level=Range(0, 0.5, open_high=True),
        )

    @property
    def any_improvement(self) -> bool:
        """Whether a change needs no test, as in the paper."""
        return self.accept_level == 1
