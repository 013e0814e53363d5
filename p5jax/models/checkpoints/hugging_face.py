"""Hugging Face T5 and official P5 checkpoints <-> p5jax parameters, without PyTorch.

A Hugging Face folder is config.json with model.safetensors (or pytorch_model.bin); an official P5
checkpoint is one `.pth` state dict with Hugging Face's names and the whole-word table. Their linear
weights are [out, in]; p5jax's kernels are [in, out].
"""

from __future__ import annotations

import json
import logging
import stat
import typing
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import ml_dtypes
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError, shown
from p5jax.core.files import remove_left_overs, replaced
from p5jax.core.kinds import refuse_other
from p5jax.models.checkpoints.state_dict import read_state_dict
from p5jax.models.checkpoints.tensor_names import (
    IGNORED,
    PROJECTIONS,
    WHOLE_WORD_PATH,
    WHOLE_WORD_TENSOR,
    TensorPath,
    checkpoint_tensors,
)
from p5jax.models.checkpoints.tokenizer import PIECES, SETTINGS, write_tokenizer
from p5jax.models.checkpoints.vocabulary_rows import extend_vocabulary
from p5jax.models.t5 import WHOLE_WORDS
from p5jax.models.t5_config import T5Config
from p5jax.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_Size = Annotated[int, range(1, 1 << 31)]
_WEIGHTS = "model.safetensors"
_EXPORTED = ("config.json", _WEIGHTS, PIECES, SETTINGS)
_HALF = tuple(f".{name}.partial" for name in _EXPORTED)  # what a killed export leaves


class _Settings(TypedDict):
    """What is read of a config.json; null is as good as nothing."""

    vocab_size: _Size
    d_model: _Size
    d_kv: _Size
    d_ff: _Size
    num_heads: _Size
    num_layers: _Size
    num_decoder_layers: NotRequired[_Size]
    feed_forward_proj: NotRequired[Literal[tuple(PROJECTIONS)]]  # type: ignore[valid-type]
    layer_norm_epsilon: NotRequired[float]
    dropout_rate: NotRequired[float]
    relative_attention_num_buckets: NotRequired[_Size]
    relative_attention_max_distance: NotRequired[_Size]
    tie_word_embeddings: NotRequired[bool]
    scale_decoder_outputs: NotRequired[bool]


_CHECKSUM = "p5jax_crc32"  # the key in the metadata of an export
_SAFETENSORS_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


def import_hugging_face(
    path: str | Path,
    *,
    vocab_size: int | None = None,
    word_starts: bytes = b"",
    pieces: int = 0,
) -> tuple[T5Config, dict[str, Any]]:
    """A checkpoint as (config, float32 numpy parameters).

    path: a Hugging Face folder, a .safetensors file with config.json beside it, or a .pth / .bin
    state dict (without a config.json beside it the sizes are taken from the tensors).
    vocab_size: more rows than the file has are filled with the mean of its rows, so that a new
    token starts as an average one; the log says so. word_starts: the vocabulary's, packed; when it
    is given and the file has no whole-word table, the table is zeros (the logits stay the file's).
    pieces: of the vocabulary; the file has a row for each. UserError when a tensor is missing,
    unknown, of another shape or not finite, or the model is not a T5 that p5jax computes.
    """
    file = _find(Path(path))
    tensors = _read(file)
    settings = file.parent / "config.json"
    if settings.is_file():
        config, scaled = _config_from_json(settings)
    else:
        config, scaled = _config_from_shapes(file, tensors), True
    if config.vocab_size < pieces:
        found = f"{config.vocab_size} rows, expected one for each of {pieces} pieces"
        raise UserError(f"{file}: vocabulary: found {found} or more")
    config = _replace(config, whole_words=WHOLE_WORD_TENSOR in tensors, word_starts=word_starts)
    config = _tie(config, scaled, tensors)
    flat = _match(file, config, tensors)
    if word_starts and not config.whole_words:
        config = _replace(config, whole_words=True)
        flat[WHOLE_WORD_PATH] = np.zeros((WHOLE_WORDS, config.emb_dim), np.float32)
    if vocab_size is not None and vocab_size != config.vocab_size:
        extend_vocabulary(file, flat, vocab_size)
        config = _replace(config, vocab_size=vocab_size)
    return config, unflatten_dict(flat)


def _replace(config: T5Config, **changes: Any) -> T5Config:
    return T5Config(**{**config.__dict__, **changes})


def _find(path: Path) -> Path:
    """The file with the tensors of a checkpoint given as a folder or a file."""
    if path.is_dir():
        for file in (path / _WEIGHTS, path / "pytorch_model.bin"):
            if file.is_file():
                return file
        raise UserError(f"{path}: found no weights, expected model.safetensors or a .pth file")
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a T5 or P5 checkpoint")
    if path.suffix == ".safetensors" and not (path.parent / "config.json").is_file():
        raise UserError(f"{path}: found no config.json beside it, expected Hugging Face's")
    return path


def _read(file: Path) -> dict[str, np.ndarray]:
    """The file's tensors by Hugging Face name, without a data-parallel `module.` prefix."""
    tensors = _read_safetensors(file) if file.suffix == ".safetensors" else read_state_dict(file)
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(file.read_bytes())
    except safetensors.SafetensorError as error:
        raise UserError(f"{file}: found {error}, expected a safetensors file") from None
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_TYPES:
            raise UserError(f"{file}: {name}: found type {entry['dtype']}, expected a float type")
        dtype = _SAFETENSORS_TYPES[entry["dtype"]]
        tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    with safetensors.safe_open(file, "numpy") as opened:
        checksum = (opened.metadata() or {}).get(_CHECKSUM)
    if checksum not in (None, _checksum(tensors)):
        raise UserError(f"{file}: its tensors are not as they were exported; export them again")
    return tensors


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """The CRC-32 of tensors in the order of their names."""
    found = 0
    for name in sorted(tensors):
        content = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8)
        found = zlib.crc32(content.data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def _config_from_json(file: Path) -> tuple[T5Config, bool]:
    """The config of a Hugging Face config.json, and whether it scales the decoder's outputs."""
    given = read_json(file, dict[str, object], "a config.json of Hugging Face's")
    kind = given.get("model_type", "t5")
    if kind != "t5":
        raise UserError(f"{file}: found model_type {shown(kind)}, expected 't5'")
    names = typing.get_type_hints(_Settings)
    fields = {name: value for name, value in given.items() if name in names and value is not None}
    refuse_other(file, fields, _Settings)
    projection = fields.get("feed_forward_proj", "relu")
    epsilon, dropout = fields.get("layer_norm_epsilon", 1e-6), fields.get("dropout_rate", 0.1)
    if epsilon != 1e-6:
        raise UserError(f"{file}: layer_norm_epsilon: found {epsilon}, expected 1e-06")
    if not 0 <= dropout < 1:
        raise UserError(f"{file}: dropout_rate: found {dropout}, expected 0 to below 1")
    config = T5Config(
        vocab_size=fields["vocab_size"],
        emb_dim=fields["d_model"],
        num_heads=fields["num_heads"],
        num_encoder_layers=fields["num_layers"],
        num_decoder_layers=fields.get("num_decoder_layers") or fields["num_layers"],
        head_dim=fields["d_kv"],
        mlp_dim=fields["d_ff"],
        mlp_activations=PROJECTIONS[projection],
        dropout_rate=dropout,
        relpos_buckets=fields.get("relative_attention_num_buckets", 32),
        relpos_max_distance=fields.get("relative_attention_max_distance", 128),
    )
    # Older configs have only tie_word_embeddings.
    tied = fields.get("tie_word_embeddings", True)
    return config, bool(fields.get("scale_decoder_outputs", tied))


def _config_from_shapes(file: Path, tensors: Mapping[str, np.ndarray]) -> T5Config:
    """The config of a state dict that comes without one (official P5: T5 v1.0)."""

    def shape(name: str, rank: int = 2) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != rank:
            found = tensors[name].shape if name in tensors else "nothing"
            raise UserError(f"{file}: {name}: found {found}, expected {rank} dimensions of a T5")
        return tensors[name].shape

    def depth(stack: str) -> int:
        blocks = {n.split(".")[2] for n in tensors if n.startswith(f"{stack}.block.")}
        return len(blocks)

    vocab, d = shape("shared.weight")
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = shape(f"{attention}.relative_attention_bias.weight")
    width = shape(f"{attention}.q.weight")[0]
    if not min(vocab, d, buckets, heads, width) or width % heads:
        found = f"{width} rows for {heads} heads of {d} numbers"
        raise UserError(f"{file}: {attention}.q.weight: found {found}, expected those of a T5")
    gated = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in tensors
    wi = f"encoder.block.0.layer.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"
    return T5Config(
        vocab_size=vocab,
        emb_dim=d,
        num_heads=heads,
        num_encoder_layers=depth("encoder"),
        num_decoder_layers=depth("decoder"),
        head_dim=width // heads,
        mlp_dim=shape(wi)[0],
        mlp_activations=PROJECTIONS["gated-gelu" if gated else "relu"],
        relpos_buckets=buckets,
    )


def _tie(config: T5Config, scaled: bool, tensors: dict[str, np.ndarray]) -> T5Config:
    """Set logits_via_embedding; p5jax scales the inputs of tied logits and of no others.

    A file of another combination is brought to one of the two: its factor D^-0.5 (or its absence)
    goes into the logits' own kernel.
    """
    shared, head = tensors.get("shared.weight"), tensors.pop("lm_head.weight", None)
    tied = head is None or (shared is not None and np.array_equal(head, shared))
    if tied and scaled:
        return _replace(config, logits_via_embedding=True)
    if head is None:
        head = shared
    if head is not None:
        factor = config.emb_dim**-0.5 if scaled else 1.0
        tensors["lm_head.weight"] = head.astype(np.float32) * np.float32(factor)
    return _replace(config, logits_via_embedding=False)


def _match(
    file: Path, config: T5Config, tensors: Mapping[str, np.ndarray]
) -> dict[TensorPath, np.ndarray]:
    """The tensors under p5jax's paths; every one must be there, of its shape, and known."""
    flat: dict[TensorPath, np.ndarray] = {}
    known = set(IGNORED)
    for name, path, shape, transpose in checkpoint_tensors(config):
        known.add(name)
        if name not in tensors:
            raise UserError(f"{file}: {name}: found nothing, expected shape {shape}")
        tensor = tensors[name]
        if tensor.shape != shape:
            raise UserError(f"{file}: {name}: found shape {tensor.shape}, expected {shape}")
        with np.errstate(over="ignore"):  # of a float64: it is infinite then
            flat[path] = np.array(tensor.T if transpose else tensor, np.float32, order="C")
        if not np.isfinite(flat[path]).all():
            raise UserError(f"{file}: {name}: found numbers that are not finite, expected weights")
    for name in [name for name in tensors if name not in known]:
        shape = tensors[name].shape
        raise UserError(f"{file}: {name}: found shape {shape}, expected no such tensor in a T5")
    return flat


def export_hugging_face(
    params: Mapping[str, Any],
    config: T5Config,
    folder: str | Path,
    *,
    drop_whole_words: bool = False,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Write config.json and model.safetensors for transformers' T5ForConditionalGeneration.

    Hugging Face's T5 has no whole-word table: UserError unless `drop_whole_words`, because its
    logits differ without one. vocabulary: is written too, for AutoTokenizer. UserError also for a
    folder that holds anything but an earlier export.
    """
    folder = Path(folder)
    if folder.is_file() or any(p.name not in _EXPORTED + _HALF for p in folder.glob("*")):
        raise UserError(f"{folder}: exists and is not an export; choose another folder")
    if config.whole_words and not drop_whole_words:
        raise UserError(
            "export: found a whole-word table, which Hugging Face's T5 cannot hold; "
            "expected whole_words=False or drop_whole_words=True (the logits then change)"
        )
    projection = [name for name, used in PROJECTIONS.items() if used == config.mlp_activations]
    if not projection:
        found, expected = config.mlp_activations, list(PROJECTIONS.values())
        raise UserError(f"export: mlp_activations: found {found}, expected one of {expected}")
    flat = flatten_dict(dict(params))
    tensors = {}
    for name, path, shape, transpose in checkpoint_tensors(_replace(config, whole_words=False)):
        tensor = np.asarray(flat[path], np.float32)
        tensor = np.ascontiguousarray(tensor.T if transpose else tensor)
        if tensor.shape != shape:
            raise UserError(f"export: {name}: found shape {tensor.shape}, expected {shape}")
        tensors[name] = tensor
    _write(folder, tensors, _config_to_json(config, projection[0]))
    if vocabulary:
        write_tokenizer(vocabulary, folder)


def _config_to_json(config: T5Config, projection: str) -> dict[str, Any]:
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": projection,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": config.relpos_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "tie_word_embeddings": config.logits_via_embedding,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _write(folder: Path, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
    """Write both files beside their paths, then rename them: no checkpoint is half written."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_overs(folder)
    with replaced(folder / "config.json") as config, replaced(folder / _WEIGHTS) as weights:
        config.write_text(json.dumps(settings, indent=2) + "\n")
        save_file(tensors, weights, metadata={"format": "pt", _CHECKSUM: _checksum(tensors)})
        # safetensors makes files that only their owner reads.
        weights.chmod(stat.S_IMODE(config.stat().st_mode))
