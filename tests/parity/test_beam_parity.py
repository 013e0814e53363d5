"""The textbook beam finds what transformers' beam search over the same ids finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p5jax.inference.ranking import rank
from p5jax.inference.trie import Trie
from p5jax.models.checkpoints.hugging_face import import_hugging_face
from p5jax.models.t5 import Transformer

pytestmark = pytest.mark.extras
torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
transformers = pytest.importorskip("transformers", reason="needs transformers (make test-extras)")

BEAM, VOCABULARY, EOS = 5, 40, 1


def catalogue(seed: int) -> list[tuple[int, ...]]:
    """Ids of one to four tokens, many a prefix of another."""
    rng = np.random.default_rng(seed)
    drawn = (tuple(rng.integers(3, 12, rng.integers(1, 5)).tolist()) for _ in range(400))
    return [(*tokens, EOS) for tokens in dict.fromkeys(drawn)]


@pytest.fixture(scope="module", params=[0, 1])
def reference(request) -> Any:
    torch.manual_seed(request.param)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=4,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():  # sharper than random weights are
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def transformers_beam(
    model: Any, sources: np.ndarray, ids: list[tuple[int, ...]]
) -> tuple[list[list[tuple[int, ...]]], np.ndarray]:
    """Its best ids per source and their log-probabilities [B, K]."""
    following: dict[tuple[int, ...], set[int]] = {}
    for tokens in ids:
        for place, token in enumerate(tokens):
            following.setdefault(tokens[:place], set()).add(token)
    tokens = torch.from_numpy(sources).long()
    found = model.generate(
        input_ids=tokens,
        attention_mask=(tokens != 0).long(),
        num_beams=BEAM,
        num_return_sequences=BEAM,
        max_new_tokens=max(map(len, ids)),
        length_penalty=0.0,  # plain log-probabilities
        early_stopping="never",
        prefix_allowed_tokens_fn=lambda _, prefix: sorted(
            following.get(tuple(prefix.tolist()[1:]), {0})
        ),
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = [tuple(row[1 : row.index(EOS) + 1]) for row in found.sequences.tolist()]
    lists = [texts[n : n + BEAM] for n in range(0, len(texts), BEAM)]
    return lists, found.sequences_scores.numpy().reshape(-1, BEAM)


@pytest.mark.parametrize("seed", [0, 1])
def test_textbook_beam_equals_transformers(reference: Any, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources = rng.integers(2, VOCABULARY, (6, 11)).astype(np.int32)
    sources[1, 5:] = 0
    ids = catalogue(seed)
    expected, scores = transformers_beam(reference, sources, ids)
    reference.save_pretrained(tmp_path)
    config, params = import_hugging_face(tmp_path)
    trie = Trie.build(ids, collapse=False)
    ranking = rank(Transformer(config), params, sources, trie, BEAM, "beam", beam=BEAM)
    np.testing.assert_allclose(ranking.logp, scores, atol=1e-4)
    assert [[ids[item] for item in row] for row in ranking.items.tolist()] == expected
