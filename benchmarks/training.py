"""A training step of p5jax beside transformers' T5 in PyTorch, on the same examples in one run.

    python benchmarks/training.py [--rounds 3] [--batches 4] [--batch-size 32] [--size small|tiny]
                                  [--lengths p5|smooth] [--window 64] [--out FILE.json]

A step is forward, backward, clipping by the global norm and AdamW, float32, dropout on. Every
variant trains on the same window of examples (64 batches of 32, the pipeline's default):
"longest" takes them in drawn order, each batch padded to its longest source and target as P5 does,
and these batches are the same for both; "buckets" and "packed" are p5jax's two other ways.

The time of a step depends on its shape alone, so a round times one batch of each bucket and one
packed batch, and counts each as often as its shape occurs in the window; of the batches padded to
their longest it times `--batches`, spread evenly over their lengths. Each framework has a process
of its own, idle while the other one works. Rounds alternate between the variants, figures are
medians over rounds, and compilation and a warm-up step of each batch are left out. p5jax also adds
its whole-word embeddings, and broadcasts dropout over positions, as in a real run.

Run it on an idle machine: other work slows threads that wait for each other, torch's above all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hardware import available_cores, describe, warn_if_busy

from p5jax.pipeline.batching import Batch, Tokens, first_fit, packed_batch, token_statistics
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import tokenise
from p5jax.pipeline.windows import Windows

NAMES = ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers")
SIZES = {
    "base": (32128, 768, 12, 64, 3072, 12),
    "small": (32128, 512, 8, 64, 2048, 6),
    "tiny": (512, 64, 4, 16, 128, 2),
}
EOS, FIRST_PIECE = 1, 3
DROPOUT, RATE, DECAY, CLIP = 0.1, 1e-3, 0.01, 1.0
# Source tokens at percentiles of the five families' P5 prompts (Musical Instruments, T5's
# vocabulary, decimal ids): short prompts, and lists of 100 candidates near 400.
PERCENTILES = (0, 5, 10, 25, 40, 50, 60, 70, 75, 80, 85, 90, 95, 99, 100)
PROMPT_LENGTHS = (12, 15, 16, 19, 24, 26, 34, 83, 287, 401, 407, 411, 416, 441, 512)
LONG_TARGETS = 0.08  # explanations; the rest are ids, stars, yes or no
TORCH, EQUAL, BUCKETS, PACKED = "torch longest", "p5jax longest", "p5jax buckets", "p5jax packed"

# The batches to time, each with the number of batches of the window that it stands for; and all
# positions, padding too, that the window takes.
Plan = tuple[list[tuple[Batch, float]], int]
# Per round: seconds per batch_size examples and cores used.
Rounds = dict[str, list[tuple[float, float]]]


def draw_examples(count: int, lengths: str, vocab: int) -> list[SimpleNamespace]:
    """Return examples whose inputs and targets are lists of random ids, without end-of-sequence.

    Lengths are evenly spaced quantiles in random order. "p5": of real prompts; "smooth":
    log-normal with about the same mean, where padding to the longest of 32 costs 2.2x.
    """
    rng = np.random.default_rng(0)
    quantile = (rng.permutation(count) + 0.5) / count
    if lengths == "p5":
        source = np.interp(100 * quantile, PERCENTILES, PROMPT_LENGTHS)
    else:
        normal = statistics.NormalDist(np.log(112), 0.385)
        source = np.exp([normal.inv_cdf(q) for q in quantile])

    def draw(length: int) -> list[int]:
        return rng.integers(FIRST_PIECE, vocab, length - 1).tolist()

    source = np.clip(source.round(), 8, 512).astype(int)
    long = (rng.random(count) < LONG_TARGETS) & (source < 300)  # a candidate list asks for an id
    target = np.where(long, rng.integers(20, 31, count), rng.integers(3, 13, count))
    pairs = zip(source, target, strict=True)
    answer = {"given": "", "listed": 0}
    return [SimpleNamespace(inputs=draw(s), targets=draw(t), **answer) for s, t in pairs]


def make_plans(args: argparse.Namespace) -> tuple[dict[str, Plan], int]:
    """Return each variant's plan and the window's real source and target tokens."""
    count = args.window * args.batch_size
    examples = draw_examples(count, args.lengths, SIZES[args.size][0])
    # The real pipeline over ready tokens: window 0 draws each example exactly once.
    family = SimpleNamespace(size=lambda split: count, example=lambda split, i, rng: examples[i])
    vocabulary = SimpleNamespace(encode=list, eos_id=EOS)

    def windows(batching: str) -> Windows:
        config = PipelineConfig(args.batch_size, batching=batching, window=args.window)
        return Windows({"generated": family}, vocabulary, config)  # type: ignore[arg-type,dict-item]

    longest = sorted(map(_trimmed, windows("longest")(0)), key=_positions)
    weight = args.window / min(args.batches, args.window)
    parts = [(longest[int(place)], weight) for place in np.arange(weight / 2, args.window, weight)]
    equal = parts, sum(map(_positions, longest))
    packing = windows("packed")
    tokens = [tokenise(e, vocabulary, packing.config) for e in examples]  # type: ignore[arg-type]
    plans = {TORCH: equal, EQUAL: equal, BUCKETS: _by_shape(windows("buckets")(0))}
    plans[PACKED] = _packed(tokens, packing, args.window)
    return plans, sum(len(t.source) + len(t.target) for t in tokens)


def _trimmed(batch: Batch) -> Batch:
    """Cut the padding that every row shares: P5 pads to the longest itself, to no multiple."""
    used = {name: array.any(axis=0) for name, array in batch.items()}
    keep = {"encoder": used["encoder_input_tokens"], "decoder": used["decoder_target_tokens"]}
    return {name: array[:, keep[name.split("_")[0]]] for name, array in batch.items()}


def _packed(tokens: list[Tokens], windows: Windows, batches: int) -> Plan:
    # Rows for exactly `batches` batches: in a small window the pipeline's own count, rounded to
    # suit devices, would leave many rows of the last batches empty.
    source, target = windows.config.source_lengths[-1], windows.packed_target
    packed = [[tokens[i] for i in row] for row in first_fit(tokens, source, target)]
    rows = -(-len(packed) // batches)
    count = -(-len(packed) // rows)
    return _by_shape([packed_batch(packed[n::count], source, target, rows) for n in range(count)])


def _by_shape(batches: list[Batch]) -> Plan:
    shapes: dict[tuple[int, int], list[Batch]] = {}
    for batch in batches:
        widths = batch["encoder_input_tokens"].shape[1], batch["decoder_input_tokens"].shape[1]
        shapes.setdefault(widths, []).append(batch)
    parts = [(same[0], float(len(same))) for _, same in sorted(shapes.items())]
    return parts, sum(map(_positions, batches))


def _positions(batch: Batch) -> int:
    return token_statistics(batch).padded


def torch_step(
    size: tuple[int, ...], cores: int, device: str = "cpu", compiled: bool = False
) -> Callable[[Batch], None]:
    """Return a function that trains transformers' T5 in PyTorch on one batch.

    compiled: by torch.compile, the products in bfloat16.
    """
    import torch
    import transformers

    from p5jax.parallel import runtime

    runtime.keep_freed_memory()  # the same allocator as p5jax's
    torch.set_num_threads(cores)
    shape: dict[str, Any] = dict(zip(NAMES, size, strict=True), decoder_start_token_id=0)
    config = transformers.T5Config(**shape, dropout_rate=DROPOUT, use_cache=False)
    model = transformers.T5ForConditionalGeneration(config).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    forward = torch.compile(model) if compiled else model

    def step(batch: Batch) -> None:
        source = torch.from_numpy(batch["encoder_input_tokens"]).long().to(device)
        target = torch.from_numpy(batch["decoder_target_tokens"]).long().to(device)
        labels = target.masked_fill(target == 0, -100)
        with torch.autocast(device, torch.bfloat16, enabled=compiled):
            mask = (source != 0).long()
            loss = forward(input_ids=source, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def p5jax_step(
    size: tuple[int, ...], cores: int, dtype: str = "float32"
) -> Callable[[Batch], None]:
    """Return a function that trains p5jax's T5 on one batch; XLA takes all cores by itself."""
    from p5jax.parallel import runtime

    runtime.set_up()
    import jax

    from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
    from p5jax.parallel.partitioning import MeshConfig, make_mesh, shard_batch
    from p5jax.training.objective import batch_sums
    from p5jax.training.optimizer import OptimizerConfig, make_optimizer
    from p5jax.training.step import Steps

    vocab, width, heads, head, mlp, layers = size
    word_starts = np.packbits(np.random.default_rng(0).random(vocab) < 0.6).tobytes()
    sizes = (vocab, width, heads, layers, layers, head, mlp)
    config = T5Config(*sizes, dropout_rate=DROPOUT, word_starts=word_starts, dtype=dtype)
    model, mesh = Transformer(config), make_mesh(MeshConfig(data=1, model=1))
    params = init_params(model, jax.random.key(0))
    tx, _ = make_optimizer(OptimizerConfig("adamw", RATE, weight_decay=DECAY, clip=CLIP), 10_000)
    objective = partial(batch_sums, model)
    steps = Steps(objective, tx, mesh, param_axes(model), params, seed=0)
    state, number = steps.init(params), 0

    def step(batch: Batch) -> None:
        nonlocal state, number
        state, sums = steps.update(state, [shard_batch(mesh, batch)], number)
        jax.block_until_ready((state, sums))
        number += 1

    return step


def serve(pipe: Connection, make_step: Any, size: tuple[int, ...], cores: int) -> None:
    """A framework's process: answer lists of batches with each one's (seconds, cores used)."""
    try:
        step = make_step(size, cores)
    except ImportError as error:
        pipe.send(f"{error}: the comparison needs it, pip install torch transformers")
        return
    pipe.send(None)
    while batches := pipe.recv():
        taken = []
        for batch in batches:
            start, work = time.perf_counter(), time.process_time()
            step(batch)
            seconds = time.perf_counter() - start
            taken.append((seconds, (time.process_time() - work) / seconds))
        pipe.send(taken)


def measure(plans: dict[str, Plan], args: argparse.Namespace, cores: int) -> Rounds:
    """Start both frameworks' processes and let them take turns."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for name, make_step in (("torch", torch_step), ("p5jax", p5jax_step)):
        pipes[name], theirs = context.Pipe()
        arguments = theirs, make_step, SIZES[args.size], cores
        context.Process(target=serve, args=arguments, daemon=True).start()
        theirs.close()  # so that a process that dies ends our recv
        if problem := pipes[name].recv():
            raise SystemExit(problem)
    results: Rounds = {name: [] for name in plans}
    for number in range(args.rounds + 1):
        for name, (parts, _) in plans.items():
            pipe = pipes[name.split()[0]]
            pipe.send([batch for batch, _ in parts])
            taken = np.array(pipe.recv())  # [parts, 2]
            cost = taken[:, 0] * [weight for _, weight in parts]
            seconds, used = cost.sum() / args.window, np.average(taken[:, 1], weights=cost)
            if number:
                results[name].append((float(seconds), float(used)))
            what = f"round {number}/{args.rounds}" if number else "warm-up, not counted"
            note = f"{name}: {seconds:.3f} s, {used:.1f} cores"
            print(f"{what}, {note}", file=sys.stderr, flush=True)
    for pipe in pipes.values():
        pipe.send([])
    return results


def report(plans: dict[str, Plan], real: int, rounds: Rounds, args: argparse.Namespace) -> Any:
    """Print a table; return its figures, JSON-able."""
    print(f"{args.window * args.batch_size} examples, {real} real tokens, {args.lengths} lengths")
    print(f"T5-{args.size}, float32, medians of {args.rounds} rounds\n")
    head = f"s/{args.batch_size} examples"
    print(f"{'':14} {head:>14} padded/real real tokens/s x torch cores used")
    rows: dict[str, dict[str, float]] = {}
    for name, (_, padded) in plans.items():
        seconds, used = np.median(rounds[name], axis=0).tolist()
        rows[name] = {
            "seconds": seconds,
            "padded_per_real": padded / real,
            "real_tokens_per_second": real / args.window / seconds,
            "speed_against_torch": rows[TORCH]["seconds"] / seconds if rows else 1.0,
            "cores_used": used,
        }
        widths = zip(rows[name].values(), ("14.3f", "11.2f", "13.0f", "7.2f", "10.1f"), strict=True)
        print(f"{name:14}", *(format(value, width) for value, width in widths))
    print(f"\nequal padding: p5jax at {rows[EQUAL]['speed_against_torch']:.2f}x of torch's speed")
    return {"variants": rows, "rounds": rounds, "real_tokens": real}


def main() -> None:
    parser = argparse.ArgumentParser(description="p5jax's training step beside PyTorch's")
    for name, default in (("rounds", 3), ("batches", 4), ("batch-size", 32), ("window", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--lengths", choices=("p5", "smooth"), default="p5")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    if min(args.rounds, args.batches, args.batch_size, args.window) < 1:
        parser.error("--rounds, --batches, --batch-size and --window: expected at least 1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # as torch, whatever else the machine has
    cores, load = available_cores(), warn_if_busy()
    plans, real = make_plans(args)
    print(describe(cores))
    result = report(plans, real, measure(plans, args, cores), args)
    result |= {"hardware": describe(cores), "load_before": load}
    if args.out:
        args.out.write_text(json.dumps(result | {"options": vars(args)}, default=str) + "\n")


if __name__ == "__main__":
    main()
