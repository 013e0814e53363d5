"""The options of an evaluation and their defaults, without jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.settings import SIZE, check
from p5jax.inference.settings import RankingConfig

MEMORY_USERS = 4000  # of the validation split, on whom a memory is chosen, at most


@dataclass(frozen=True)
class EvaluationConfig(RankingConfig):
    """How much work an evaluation does.

    method, beam, exact: how the catalogue is ranked (P5 used a beam of 20; an under-trained model
    needs more). Users of the prompts that ask about every candidate on its own are a subset of
    those of the other prompts.
    """

    batch_size: int = field(
        default=16, metadata={"help": "rows of a batch, for each data group of the run's mesh"}
    )
    yes_no_users: int = field(
        default=200, metadata={"help": "most users of prompts that ask about each candidate alone"}
    )
    max_length: int = field(default=64, metadata={"help": "most tokens of a generated text"})
    seed: int = field(default=0, metadata={"help": "of the sample of examples under a limit"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, batch_size=SIZE, yes_no_users=SIZE, max_length=SIZE)


DEFAULTS = EvaluationConfig()
