"""The options of recommendations and their defaults, without jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.settings import SIZE, Range, above, check
from p5jax.inference.settings import RankingConfig


@dataclass(frozen=True)
class BulkConfig(RankingConfig):
    """What is recommended to each user.

    method, beam, exact: how the catalogue is ranked. Without prompts it is the one of the
    triggers, or else the first that an evaluation shows (L-1 or 2-3). Of several the probabilities
    are averaged.
    """

    k: int = field(default=10, metadata={"help": "items for a user"})
    prompts: tuple[str, ...] = ()
    exclude_history: bool = field(
        default=True, metadata={"help": "leave out what the user already has (default: yes)"}
    )
    batch_size: int = field(default=16, metadata={"help": "users at a time, on all devices"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, k=SIZE, batch_size=SIZE)


BULK_DEFAULTS = BulkConfig()


EXPORT_FORMATS = ("huggingface", "jax")


@dataclass(frozen=True)
class ProgramsConfig:
    """Which programs of a run's ranking are exported; see serving.exported.export_programs."""

    prompt: str = field(
        default="",
        metadata={"help": "prompt of the dataset's users, as recommend takes it (format jax)"},
    )
    beam: int = field(
        default=64, metadata={"help": "width of the search, and the longest list (format jax)"}
    )
    batch_size: int = field(
        default=16, metadata={"help": "users at a time, beside one alone (format jax)"}
    )

    def __post_init__(self) -> None:
        check(self, beam=SIZE, batch_size=SIZE)


PROGRAM_DEFAULTS = ProgramsConfig()


@dataclass(frozen=True)
class ServeConfig:
    """How a run is served over HTTP; see serving.http.server.serve."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on"})
    port: int = field(default=8000, metadata={"help": "port to listen on, 0 for any free one"})
    beam: int = field(default=64, metadata={"help": "width of the search, and the longest list"})
    rows: int = field(default=16, metadata={"help": "requests that are computed together, at most"})
    queue: int = field(
        default=128, metadata={"help": "requests that may wait; more get status 429"}
    )
    seconds: float = field(default=10.0, metadata={"help": "time in which a request is answered"})
    log_questions: bool = field(
        default=False, metadata={"help": "write what is asked into the log, too"}
    )
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("beam", "rows", "queue"), SIZE)
        check(self, **sizes, port=Range(0, 65535), seconds=above(0))
