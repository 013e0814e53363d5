"""Logits equal transformers' PyTorch T5 to 1e-4 in float32, in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from p5jax.models.checkpoints.hugging_face import export_hugging_face, import_hugging_face
from p5jax.models.t5 import T5Config, Transformer, init_params

pytestmark = pytest.mark.extras
torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
transformers = pytest.importorskip("transformers", reason="needs transformers (make test-extras)")

VERSIONS: dict[str, dict[str, Any]] = {
    "v1.0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
OURS: dict[str, dict[str, Any]] = {
    "v1.0": {},
    "v1.1": {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False},
}


def batch(vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources of 150 tokens (beyond the largest relative distance), one padded, and targets."""
    rng = np.random.default_rng(0)
    source = rng.integers(2, vocab, (3, 150))
    source[0, 40:] = 0
    inputs = rng.integers(2, vocab, (3, 9))
    inputs[:, 0] = 0
    return source.astype(np.int32), inputs.astype(np.int32)


def torch_logits(model: Any, source: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    tokens = torch.from_numpy(source).long()
    with torch.no_grad():
        output = model.eval()(
            input_ids=tokens,
            attention_mask=(tokens != 0).long(),
            decoder_input_ids=torch.from_numpy(inputs).long(),
        )
    return output.logits.numpy()


def our_logits(config: T5Config, params: Any, source: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    def logits(params: Any) -> jax.Array:
        return Transformer(config).apply(
            {"params": params}, source, inputs, inputs, enable_dropout=False
        )

    return np.asarray(jax.jit(logits)(params))


@pytest.mark.parametrize(
    ("version", "untied_values"), [("v1.0", False), ("v1.1", False), ("v1.1", True)]
)
def test_import_gives_the_same_logits(tmp_path: Path, version: str, untied_values: bool) -> None:
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=96, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_decoder_layers=3,
            num_heads=4, **VERSIONS[version],
        )
    )  # fmt: skip
    if untied_values:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(96, 24))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases away from their initial values
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    source, inputs = batch(96)
    config, params = import_hugging_face(tmp_path)
    assert config.num_decoder_layers == 3
    expected = torch_logits(model, source, inputs)
    assert np.abs(expected).max() > 0.5
    found = our_logits(config, params, source, inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_export_gives_the_same_logits(tmp_path: Path, version: str) -> None:
    config = T5Config(
        vocab_size=96, emb_dim=24, num_heads=4, num_encoder_layers=3, num_decoder_layers=2,
        head_dim=8, mlp_dim=40, whole_words=False, **OURS[version],
    )  # fmt: skip
    params = init_params(Transformer(config), jax.random.key(1))
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda a: np.asarray(a) + rng.normal(0, 0.1, a.shape).astype(np.float32), params
    )
    export_hugging_face(params, config, tmp_path)
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    source, inputs = batch(96)
    expected = torch_logits(model, source, inputs)
    np.testing.assert_allclose(
        our_logits(config, params, source, inputs), expected, atol=1e-4, rtol=0
    )
    again, back = import_hugging_face(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_official_p5_logits(tmp_path: Path) -> None:
    """A state dict with a whole-word table: transformers fed with the summed embeddings agrees."""
    torch.manual_seed(3)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=96, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=4,
        )
    )  # fmt: skip
    table = torch.randn(512, 24)
    state = {**model.state_dict(), "encoder.whole_word_embeddings.weight": table}
    torch.save(state, tmp_path / "p5.pth")
    starts = np.arange(96) % 3 == 0
    config, params = import_hugging_face(
        tmp_path / "p5.pth", word_starts=np.packbits(starts).tobytes()
    )
    source, inputs = batch(96)
    words = np.where(source == 0, 0, np.cumsum(starts[source], axis=1))
    tokens = torch.from_numpy(source).long()
    with torch.no_grad():
        expected = model.eval()(
            inputs_embeds=model.shared(tokens) + table[torch.from_numpy(words).long()],
            attention_mask=(tokens != 0).long(),
            decoder_input_ids=torch.from_numpy(inputs).long(),
        ).logits.numpy()
    found = our_logits(config, params, source, inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_an_exports_tokenizer_gives_the_vocabularys_ids(tmp_path: Path, world, world_vocabulary):
    from transformers import AutoTokenizer

    config = T5Config(world_vocabulary.padded_size, 16, 2, 1, 1, 8, 32, whole_words=False)
    params = init_params(Transformer(config), jax.random.key(0))
    export_hugging_face(params, config, tmp_path, vocabulary=world_vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == world_vocabulary.size
    texts = [text for text in world.reviews["text"].to_pylist()[:50] if text]
    for text in (*texts, f"user_3 bought {''.join(world_vocabulary.id_tokens[:2])} , next ?"):
        ids = [*world_vocabulary.encode(text), world_vocabulary.eos_id]
        assert tokenizer(text).input_ids == ids
