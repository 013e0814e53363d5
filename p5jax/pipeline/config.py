"""How training batches are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from p5jax.core.errors import UserError, shown
from p5jax.core.settings import COUNT, SIZE, check

BATCHINGS = ("auto", "longest", "buckets", "packed")
_WINDOW_EXAMPLES, _LEAST_WINDOW = 2048, 8


@dataclass(frozen=True)
class PipelineConfig:
    """How training batches are made.

    batch_size: examples per step over all processes; on average when packed.
    source_lengths: padded source lengths, ascending; the last is the longest source accepted, and
        the length of a packed row.
    target_lengths: padded target lengths with the end-of-sequence, ascending; targets that are
        longer than the last are cut, but for lists of items.
    batching: "longest" (pad to the batch's longest, what P5 does), "buckets" (sort by length
        within a window, few shapes), "packed" (several examples in a row, one shape), or "auto":
        buckets on a CPU, where attention's cost grows with the row; packed on a GPU or TPU.
    rates: family -> rate; families not named are left out. Empty: proportional to their sizes,
        so that an epoch holds every example once.
    window: batches whose examples are sorted or packed together; 0: as many as hold 2,048
        examples, at least 8.
    shards: a folder of `p5jax data export-shards` to read the samples from, "" to render them;
        after the last sample the first comes again.
    threads: threads that prepare windows ahead, 0 for none. workers: processes that do so, for
        accelerators that outrun one core.
    """

    batch_size: int = 32
    source_lengths: tuple[int, ...] = (32, 128, 448, 512)
    target_lengths: tuple[int, ...] = (16, 64)
    batching: str = "auto"
    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    window: int = 0
    shards: str = ""
    threads: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            batching=BATCHINGS,
            **dict.fromkeys(("batch_size", "source_lengths", "target_lengths"), SIZE),
            **dict.fromkeys(("rates", "window", "threads", "workers"), COUNT),
        )
        for name in ("source_lengths", "target_lengths"):
            lengths = getattr(self, name)
            if not lengths or list(lengths) != sorted(set(lengths)):
                raise UserError(
                    f"PipelineConfig.{name}: found {shown(lengths)}, expected ascending lengths"
                )

    @property
    def target_length(self) -> int:
        """The longest target."""
        return self.target_lengths[-1]

    @property
    def window_batches(self) -> int:
        """Batches in a window."""
        return self.window or max(_LEAST_WINDOW, _WINDOW_EXAMPLES // self.batch_size)


def resolved_batching(config: PipelineConfig) -> str:
    """Return the batching that "auto" stands for on this machine."""
    if config.batching != "auto":
        return config.batching
    import jax

    return "buckets" if jax.default_backend() == "cpu" else "packed"
