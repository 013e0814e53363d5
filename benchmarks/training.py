"""A training step of p5jax beside transformers' T5 in PyTorch, on the same examples in one run.

    python benchmarks/training.py [--rounds 3] [--batches 4] [--batch-size 32] [--size small|tiny]
                                  [--lengths p5|smooth] [--window 64] [--out FILE.json]

A step is forward, backward, clipping by the global norm and AdamW, float32, dropout on. Every
variant trains on the same window of examples (64 batches of 32, the pipeline's default):

- torch longest: drawn order, each batch padded to its longest source and target, as P5 does;
- p5jax longest: exactly the same batches ("equal padding");
- p5jax buckets: the pipeline's default on a CPU;
- p5jax packed: the pipeline's default on an accelerator, rows of 512.

The time of a step depends on its shape alone, so a round times one batch of each bucket and one
packed batch, and counts each as often as its shape occurs in the window; of the batches padded to
their longest it times `--batches`, spread evenly over their lengths. Each framework has a process
of its own, idle while the other one works; rounds alternate between all variants, figures are
medians over rounds, compilation and a warm-up step of each batch are left out. p5jax also adds its
whole-word embeddings, and broadcasts dropout over positions, as in a real run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from p5jax.batching import Batch, Tokens, first_fit, packed_batch, token_statistics
from p5jax.windows import PipelineConfig, Windows, tokenise

SIZES = {
    "small": dict(vocab=32128, d=512, heads=8, head=64, mlp=2048, layers=6),
    "tiny": dict(vocab=512, d=64, heads=4, head=16, mlp=128, layers=2),
}
EOS, FIRST_PIECE = 1, 3
DROPOUT, RATE, DECAY, CLIP = 0.1, 1e-3, 0.01, 1.0
# Source tokens at percentiles of the five families' P5 prompts (Musical Instruments, T5's
# vocabulary, decimal ids): short prompts, and lists of 100 candidates near 400.
PERCENTILES = (0, 5, 10, 25, 40, 50, 60, 70, 75, 80, 85, 90, 95, 99, 100)
PROMPT_LENGTHS = (12, 15, 16, 19, 24, 26, 34, 83, 287, 401, 407, 411, 416, 441, 512)
LONG_TARGETS = 0.08  # explanations; the rest are ids, stars, yes or no
TORCH, EQUAL, BUCKETS, PACKED = "torch longest", "p5jax longest", "p5jax buckets", "p5jax packed"


class Part(NamedTuple):
    """A batch to time and how many batches of the window it stands for."""

    batch: Batch
    weight: float


class Plan(NamedTuple):
    """What a variant times, and all positions, padding too, that it computes in the window."""

    parts: list[Part]
    padded: int


def draw_examples(count: int, lengths: str, vocab: int, seed: int) -> list[SimpleNamespace]:
    """Return examples whose inputs and targets are lists of random ids, without end-of-sequence.

    Lengths are evenly spaced quantiles of their distribution in random order. "p5": real prompts;
    "smooth": log-normal with the same mean, where padding to the longest of 32 costs 2.2x.
    """
    rng = np.random.default_rng(seed)
    quantile = (rng.permutation(count) + 0.5) / count
    if lengths == "p5":
        source = np.interp(100 * quantile, PERCENTILES, PROMPT_LENGTHS)
    else:
        normal = statistics.NormalDist(np.log(112), 0.42)
        source = np.exp([normal.inv_cdf(q) for q in quantile])
    source = np.clip(source.round(), 8, 512).astype(int)
    # A prompt that lists candidates is answered by an id.
    long = (rng.random(count) < LONG_TARGETS) & (source < 300)
    target = np.where(long, rng.integers(20, 31, count), rng.integers(3, 13, count))
    return [
        SimpleNamespace(
            prompt_id="generated",
            inputs=rng.integers(FIRST_PIECE, vocab, s - 1).tolist(),
            targets=rng.integers(FIRST_PIECE, vocab, t - 1).tolist(),
        )
        for s, t in zip(source, target, strict=True)
    ]


def make_plans(args: argparse.Namespace) -> tuple[dict[str, Plan], int]:
    """Return each variant's plan and the window's real source and target tokens."""
    count = args.window * args.batch_size
    vocab = SIZES[args.size]["vocab"]
    examples = draw_examples(count, args.lengths, vocab, args.seed)
    # The real pipeline over ready tokens: window 0 draws each example exactly once.
    family = SimpleNamespace(size=lambda split: count, example=lambda split, i, rng: examples[i])
    vocabulary = SimpleNamespace(encode=list, eos_id=EOS)

    def windows(batching: str) -> Windows:
        config = PipelineConfig(
            batch_size=args.batch_size, batching=batching, window=args.window, seed=args.seed
        )
        return Windows({"generated": family}, vocabulary, config)  # type: ignore[arg-type]

    longest = [_trimmed(batch) for batch in windows("longest")(0)]
    longest.sort(key=_positions)
    sampled = min(args.batches, len(longest))
    places = [int((i + 0.5) * len(longest) / sampled) for i in range(sampled)]
    equal = Plan(
        [Part(longest[place], len(longest) / sampled) for place in places],
        sum(map(_positions, longest)),
    )
    packing = windows("packed")
    tokens = [tokenise(e, vocabulary, packing.config) for e in examples]  # type: ignore[arg-type]
    plans = {
        TORCH: equal,
        EQUAL: equal,
        BUCKETS: _by_shape(windows("buckets")(0)),
        PACKED: _packed(tokens, packing, args.window),
    }
    return plans, sum(len(t.source) + len(t.target) for t in tokens)


def _trimmed(batch: Batch) -> Batch:
    """Cut the padding that every row shares: P5 pads to the longest itself, to no multiple."""
    longest = {
        side: int(np.count_nonzero(batch[tokens], axis=1).max())
        for side, tokens in (
            ("encoder", "encoder_input_tokens"),
            ("decoder", "decoder_target_tokens"),
        )
    }
    return {
        name: np.ascontiguousarray(array[:, : longest[name.split("_")[0]]])
        for name, array in batch.items()
    }


def _packed(tokens: list[Tokens], windows: Windows, batches: int) -> Plan:
    # Rows for exactly `batches` batches: in a small window the pipeline's own count, rounded to
    # suit devices, would leave many rows of the last batches empty.
    source, target = windows.config.source_lengths[-1], windows.packed_target
    packed = [[tokens[i] for i in row] for row in first_fit(tokens, source, target)]
    rows = -(-len(packed) // batches)
    count = -(-len(packed) // rows)
    return _by_shape(
        [packed_batch(packed[start::count], source, target, rows) for start in range(count)]
    )


def _by_shape(batches: list[Batch]) -> Plan:
    shapes: dict[tuple[int, ...], list[Batch]] = {}
    for batch in batches:
        key = (*batch["encoder_input_tokens"].shape, *batch["decoder_input_tokens"].shape)
        shapes.setdefault(key, []).append(batch)
    parts = [Part(same[0], len(same)) for _, same in sorted(shapes.items())]
    return Plan(parts, sum(map(_positions, batches)))


def _positions(batch: Batch) -> int:
    return token_statistics(batch).padded


def torch_step(size: dict[str, int], cores: int) -> Callable[[Batch], None]:
    """Return a function that trains transformers' T5 in PyTorch on one batch."""
    import torch
    import transformers

    from p5jax import runtime

    runtime.keep_freed_memory()  # the same allocator as p5jax's
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=size["vocab"],
        d_model=size["d"],
        d_kv=size["head"],
        d_ff=size["mlp"],
        num_layers=size["layers"],
        num_decoder_layers=size["layers"],
        num_heads=size["heads"],
        dropout_rate=DROPOUT,
        decoder_start_token_id=0,
        use_cache=False,
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, weight_decay=DECAY, eps=1e-6, fused=True
    )

    def step(batch: Batch) -> None:
        source = torch.from_numpy(batch["encoder_input_tokens"]).long()
        target = torch.from_numpy(batch["decoder_target_tokens"]).long()
        labels = target.masked_fill(target == 0, -100)
        loss = model(input_ids=source, attention_mask=(source != 0).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def p5jax_step(size: dict[str, int], cores: int) -> Callable[[Batch], None]:
    """Return a function that trains p5jax's T5 on one batch; XLA takes all cores by itself."""
    from p5jax import runtime

    runtime.set_up()
    import jax

    from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
    from p5jax.training.optimizer import OptimizerConfig, make_optimizer
    from p5jax.training.partitioning import MeshConfig, make_mesh, shard_batch
    from p5jax.training.step import Steps

    word_starts = np.random.default_rng(0).random(size["vocab"]) < 0.6
    config = T5Config(
        vocab_size=size["vocab"],
        emb_dim=size["d"],
        num_heads=size["heads"],
        num_encoder_layers=size["layers"],
        num_decoder_layers=size["layers"],
        head_dim=size["head"],
        mlp_dim=size["mlp"],
        dropout_rate=DROPOUT,
        word_starts=np.packbits(word_starts).tobytes(),
    )
    model, mesh = Transformer(config), make_mesh(MeshConfig(data=1, model=1))
    params = init_params(model, jax.random.key(0))
    optimizer = OptimizerConfig(learning_rate=RATE, weight_decay=DECAY, clip=CLIP)
    tx, _ = make_optimizer(optimizer, 10_000)
    steps = Steps(model, tx, mesh, param_axes(model), params, seed=0)
    state, number = steps.init(params), 0

    def step(batch: Batch) -> None:
        nonlocal state, number
        state, sums = steps.update(state, [shard_batch(mesh, batch)], number)
        jax.block_until_ready((state, sums))
        number += 1

    return step


def serve(
    pipe: Connection,
    make_step: Callable[[dict[str, int], int], Callable[[Batch], None]],
    size: dict[str, int],
    cores: int,
) -> None:
    """A framework's process: answer each list of batches with the seconds each one took."""
    try:
        step = make_step(size, cores)
    except ImportError as error:
        pipe.send(f"{error}: install what the comparison needs, pip install torch transformers")
        return
    pipe.send(None)
    while (batches := pipe.recv()) is not None:
        seconds = []
        for batch in batches:
            start = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - start)
        pipe.send(seconds)


def measure(plans: dict[str, Plan], args: argparse.Namespace, cores: int) -> dict[str, list[float]]:
    """Return each variant's seconds per batch_size examples, one figure per round."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name, make_step in (("torch", torch_step), ("p5jax", p5jax_step)):
        pipes[name], theirs = context.Pipe()
        context.Process(
            target=serve, args=(theirs, make_step, SIZES[args.size], cores), daemon=True
        ).start()
        theirs.close()  # so that a worker that dies ends our recv
        if problem := pipes[name].recv():
            raise SystemExit(problem)
    results: dict[str, list[float]] = {name: [] for name in plans}
    for number in range(args.rounds + 1):
        for name, plan in plans.items():
            start = time.perf_counter()
            pipe = pipes[name.split()[0]]
            pipe.send([part.batch for part in plan.parts])
            pairs = zip(plan.parts, pipe.recv(), strict=True)
            seconds = sum(part.weight * taken for part, taken in pairs) / args.window
            what = f"round {number}/{args.rounds}" if number else "warm-up"
            took = time.perf_counter() - start
            note = f"{seconds:.3f} s per {args.batch_size} examples, " if number else ""
            print(f"{what}, {name}: {note}took {took:.0f} s", file=sys.stderr, flush=True)
            if number:
                results[name].append(seconds)
    for pipe in pipes.values():
        pipe.send(None)
    return results


def hardware(cores: int) -> str:
    """Return one line: processor, cores and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = (f"{name} {metadata.version(name)}" for name in ("jax", "torch", "transformers"))
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {cores} cores; Python {platform.python_version()}, {', '.join(versions)}"


def summary(plans: dict[str, Plan], real: int, seconds: dict[str, list[float]], window: int) -> Any:
    """Return the figures per variant and the ratio at equal padding, JSON-able."""
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    rows = {
        name: {
            "seconds": middle[name],
            "rounds": seconds[name],
            "padded_per_real": plan.padded / real,
            "real_tokens_per_second": real / window / middle[name],
            "speed_against_torch": middle[TORCH] / middle[name],
        }
        for name, plan in plans.items()
    }
    return {"variants": rows, "equal_padding": middle[TORCH] / middle[EQUAL]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=4, help="timed of those padded to longest")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--lengths", choices=("p5", "smooth"), default="p5")
    parser.add_argument("--window", type=int, default=64, help="batches in the window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # as torch, whatever else the machine has
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plans, real = make_plans(args)
    result = summary(plans, real, measure(plans, args, cores or 1), args.window)
    result |= {"hardware": hardware(cores or 1), "real_tokens": real}
    result["options"] = {k: v for k, v in vars(args).items() if k != "out"}
    examples = args.window * args.batch_size
    print(f"{result['hardware']}\nT5-{args.size}, float32, {args.lengths} lengths: {examples}", end="")
    print(f" examples of {real / examples:.0f} tokens, medians of {args.rounds} rounds\n")
    print(f"{'':14} {f's/{args.batch_size} examples':>14} padded/real real tokens/s  x torch")
    for name, row in result["variants"].items():
        print(
            f"{name:14} {row['seconds']:14.3f} {row['padded_per_real']:11.2f}"
            f" {row['real_tokens_per_second']:13.0f} {row['speed_against_torch']:8.2f}"
        )
    print(f"\nequal padding: p5jax at {result['equal_padding']:.2f}x of torch's speed")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
