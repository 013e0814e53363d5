"""`p5jax serve` with transformers' beam search in the place of p5jax's: the same loop around it.

Takes the words of `p5jax serve`. A T5 of the run's sizes with random weights (the time does not
depend on them) reads the same tokens in the same batches, and writes ids of the run's items:
`prefix_allowed_tokens_fn` over a trie of dicts, beam 20, no memory, nothing left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from p5jax.cli.main import main
from p5jax.inference.ranking import begun_rows, given_rows
from p5jax.pipeline.batching import padded
from p5jax.runs.run import Run
from p5jax.serving.http.engine import Engine, Work

BEAM = 20


def random_model(run: Run) -> Any:
    """transformers' T5 of a run's sizes."""
    config = run.model.config
    torch.manual_seed(0)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_heads=config.num_heads,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            feed_forward_proj="gated-gelu" if len(config.mlp_activations) > 1 else "relu",
            tie_word_embeddings=config.logits_via_embedding,
            decoder_start_token_id=0,
        )
    ).eval()


def searcher(engine: Engine) -> Callable[[Sequence[Work]], list[dict[str, Any]]]:
    """What answers a batch of the service."""
    recommender, run = engine.recommender, engine.recommender.run
    model, vocabulary, dataset = random_model(run), run.vocabulary, run.dataset
    family = recommender.family("sequential")
    lists = family.lists(engine.prompts[0])
    texts = family.source.ended_ids if lists else dataset.item_ids
    ids = [[*vocabulary.encode(text), *([] if lists else [1])] for text in texts]
    items = {tuple(tokens): item for item, tokens in enumerate(ids)}
    longest, root = max(map(len, ids)), dict[int, Any]()
    for tokens in ids:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})

    def key_of(written: list[int]) -> str:
        starts = (tuple(written[:end]) for end in range(1, longest + 1))
        return dataset.item_keys[next(items[start] for start in starts if start in items)]

    @torch.no_grad()
    def search(works: Sequence[Work]) -> list[dict[str, Any]]:
        asked = [prompted.prompts[0] for _, prompted in works]
        source = torch.from_numpy(padded([each.tokens for each in asked])).long()
        begun = begun_rows(given_rows([each.given for each in asked], vocabulary), len(asked))
        begun = begun[:, (begun < 0).all(axis=0).sum() :]
        before, k = begun.shape[1], works[0][0].k

        def allowed(_: int, prefix: Any) -> list[int]:
            node = root
            for token in prefix[before:].tolist():
                node = node.get(token, {})
            return list(node) or [1]

        found = model.generate(
            input_ids=source,
            attention_mask=(source != 0).long(),
            decoder_input_ids=torch.from_numpy(np.maximum(begun, 0)).long(),
            decoder_attention_mask=torch.from_numpy(begun >= 0).long(),
            num_beams=BEAM,
            num_return_sequences=k,
            max_new_tokens=longest,
            prefix_allowed_tokens_fn=allowed,
        )
        keys = [key_of(row) for row in found[:, before:].tolist()]
        return [{"items": keys[at : at + k]} for at in range(0, len(keys), k)]

    return search


if __name__ == "__main__":
    torch.set_num_threads(2)

    def warm(engine: Any, *_: Any) -> None:
        engine.recommend = searcher(engine)

    Engine.warm = warm  # type: ignore[method-assign]
    sys.exit(main(["serve", *sys.argv[1:]]))
