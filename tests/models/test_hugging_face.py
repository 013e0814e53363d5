"""Checkpoints read and written without PyTorch: files made by PyTorch, and files that lie."""

from __future__ import annotations

import json
import logging
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.models.checkpoints.hugging_face import export_hugging_face, import_hugging_face
from p5jax.models.checkpoints.state_dict import read_state_dict
from p5jax.models.t5 import T5Config, Transformer, init_params

pytestmark = pytest.mark.extras
torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
transformers = pytest.importorskip("transformers", reason="needs transformers (make test-extras)")

WORD_STARTS = np.packbits(np.arange(64) % 2 == 0).tobytes()
SMALL = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    whole_words=False,
)


def small_params() -> dict[str, Any]:
    return jax.tree.map(np.asarray, init_params(Transformer(SMALL), jax.random.key(0)))


def state_dict(folder: Path) -> dict[str, Any]:
    """An official checkpoint: Hugging Face names, its duplicates and the whole-word table."""
    export_hugging_face(small_params(), SMALL, folder)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    state = OrderedDict(model.state_dict())
    state["encoder.whole_word_embeddings.weight"] = torch.randn(512, 16)
    return state


# ------------------------------------------------------------------------------- the .pth reader


def test_reads_what_torch_saves(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "plain": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bfloat16": (base / 7).bfloat16(),
        "double": base.double(),
        "int64": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(base + 1),
    }
    torch.save(state, tmp_path / "state.pth")
    read = read_state_dict(tmp_path / "state.pth")
    assert list(read) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().float() if name == "bfloat16" else tensor.detach()
        assert read[name].shape == tuple(tensor.shape), name
        assert np.array_equal(read[name].astype(expected.numpy().dtype), expected.numpy()), name
    assert read["half"].dtype == np.float16


def test_reads_a_big_endian_file(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(5, dtype=torch.float32)}, tmp_path / "little.pth")
    with (
        zipfile.ZipFile(tmp_path / "little.pth") as source,
        zipfile.ZipFile(tmp_path / "big.pth", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif name.endswith("data/0"):
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            target.writestr(name, data)
    assert read_state_dict(tmp_path / "big.pth")["w"].tolist() == [0, 1, 2, 3, 4]


def write_zip(path: Path, data: bytes, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, storage in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", storage)
    return path


class Runs:
    """Calls a function when unpickled by the standard reader."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, "posix.mkdir"), (eval, "eval"), (getattr, "getattr")],
)
def test_a_pickle_that_calls_anything_else_is_refused(
    tmp_path: Path, function: Any, name: str
) -> None:
    victim = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(victim)!r})" if function is eval else str(victim)
    for protocol in (2, 4):
        data = pickle.dumps({"w": Runs(function, argument)}, protocol)
        path = write_zip(tmp_path / "bad.pth", data)
        with pytest.raises(UserError, match=rf"a pickle that calls \S*{name}") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)
        assert not victim.exists()


def tensor_pickle(size: tuple, stride: tuple, offset: int = 0, elements: int = 4) -> bytes:
    """A hand-assembled pickle of {"w": tensor} over storage "0"."""

    def number(n: int) -> bytes:
        return b"J" + n.to_bytes(4, "little", signed=True)

    def pack(values: tuple) -> bytes:
        return b"(" + b"".join(number(n) for n in values) + b"t"

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(elements) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    call += pack(size) + pack(stride) + b"\x89N" + b"tR"
    return b"\x80\x02}U\x01w" + call + b"s."


def test_the_hand_assembled_pickle_is_read(tmp_path: Path) -> None:
    storages = {"0": np.arange(4, dtype="<f4").tobytes()}
    path = write_zip(tmp_path / "good.pth", tensor_pickle((2, 2), (1, 2)), storages)
    assert read_state_dict(path)["w"].tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((3, 2), (2, 1), 0), ((2, 2), (2, 1), 1), ((2,), (-1,), 1), ((-2,), (1,), 0),
     ((1000, 1000), (0, 0), 0), ((2, 2), (1,), 0)],
)  # fmt: skip
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, size: tuple, stride: tuple, offset: int
) -> None:
    storages = {"0": np.arange(4, dtype="<f4").tobytes()}
    path = write_zip(tmp_path / "bad.pth", tensor_pickle(size, stride, offset), storages)
    with pytest.raises(UserError, match="tensor"):
        read_state_dict(path)


def test_files_that_are_no_state_dict_get_one_line(tmp_path: Path) -> None:
    good = tensor_pickle((2, 2), (2, 1))
    four = {"0": np.arange(4, dtype="<f4").tobytes()}
    cases = {
        "found no such file": tmp_path / "absent.pth",
        "0 data.pkl entries": tmp_path / "other.zip",
        "no storage archive/data/0": write_zip(tmp_path / "a.pth", good),
        "3 bytes in archive/data/0": write_zip(tmp_path / "b.pth", good, {"0": b"abc"}),
        "broken file": write_zip(tmp_path / "c.pth", good[:-20], four),
        "a pickle with EMPTY_LIST": write_zip(tmp_path / "d.pth", pickle.dumps([1], 2)),
        "a int under 'epoch'": write_zip(tmp_path / "e.pth", pickle.dumps({"epoch": 3}, 2)),
    }
    with zipfile.ZipFile(cases["0 data.pkl entries"], "w") as archive:
        archive.writestr("readme.txt", "no")
    torch.save({"w": torch.ones(1000)}, tmp_path / "whole.pth")
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    cases["no complete zip"] = truncated
    legacy = tmp_path / "legacy.pth"
    torch.save({"w": torch.ones(3)}, legacy, _use_new_zipfile_serialization=False)
    cases["expected one from torch.save"] = legacy
    for expected, path in cases.items():
        with pytest.raises(UserError) as error:
            read_state_dict(path)
        assert expected in str(error.value)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------- official P5 checkpoints


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_state_dict_round_trip(tmp_path: Path, prefix: str) -> None:
    state = state_dict(tmp_path / "hf")
    table = state["encoder.whole_word_embeddings.weight"].numpy()
    torch.save({prefix + k: v for k, v in state.items()}, tmp_path / "p5.pth")
    config, params = import_hugging_face(tmp_path / "p5.pth", word_starts=WORD_STARTS)
    assert config == T5Config(**{**SMALL.__dict__, "whole_words": True, "word_starts": WORD_STARTS})
    assert np.array_equal(params["whole_word_embedder"]["embedding"], table)
    del params["whole_word_embedder"]
    jax.tree.map(np.testing.assert_array_equal, params, small_params())


def test_wrong_tensors_are_named_with_both_shapes(tmp_path: Path) -> None:
    state = state_dict(tmp_path / "hf")
    name = "decoder.block.0.layer.2.DenseReluDense.wo.weight"
    cases = {
        f"{name}: found shape (16, 31), expected (16, 32)": {**state, name: torch.ones(16, 31)},
        f"{name}: found nothing, expected shape (16, 32)": {
            k: v for k, v in state.items() if k != name
        },
        "adapter.weight: found shape (2,), expected no such tensor": {
            **state, "adapter.weight": torch.ones(2)
        },
    }  # fmt: skip
    for expected, changed in cases.items():
        torch.save(changed, tmp_path / "bad.pth")
        with pytest.raises(UserError) as error:
            import_hugging_face(tmp_path / "bad.pth")
        assert expected in str(error.value)
        assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------- folders, options


def test_vocabulary_is_extended_by_the_mean_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = small_params()
    export_hugging_face(params, SMALL, tmp_path)
    with caplog.at_level(logging.WARNING):
        config, grown = import_hugging_face(tmp_path, vocab_size=128)
    assert config.vocab_size == 128
    assert "extended from 64 to 128 rows" in caplog.text
    table, old = grown["token_embedder"]["embedding"], params["token_embedder"]["embedding"]
    assert np.array_equal(table[:64], old)
    np.testing.assert_allclose(table[64:], np.tile(old.mean(axis=0), (64, 1)), rtol=1e-6)
    with pytest.raises(UserError, match="found 64 rows, expected at most 32"):
        import_hugging_face(tmp_path, vocab_size=32)


def test_word_starts_add_a_table_of_zeros(tmp_path: Path) -> None:
    export_hugging_face(small_params(), SMALL, tmp_path)
    config, params = import_hugging_face(tmp_path, word_starts=WORD_STARTS)
    assert config.whole_words
    assert params["whole_word_embedder"]["embedding"].shape == (512, 16)
    assert not params["whole_word_embedder"]["embedding"].any()


def test_export_refuses_a_whole_word_table_unless_told_to_drop_it(tmp_path: Path) -> None:
    config = T5Config(**{**SMALL.__dict__, "whole_words": True, "word_starts": WORD_STARTS})
    params = init_params(Transformer(config), jax.random.key(0))
    with pytest.raises(UserError, match="found a whole-word table"):
        export_hugging_face(params, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_hugging_face(params, config, tmp_path / "out", drop_whole_words=True)
    read, _ = import_hugging_face(tmp_path / "out")
    assert read == SMALL
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors"
    ]  # fmt: skip


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    export_hugging_face(small_params(), SMALL, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(half, tmp_path / "model.safetensors")
    _, params = import_hugging_face(tmp_path)
    expected = half["shared.weight"].float().numpy()
    assert np.array_equal(params["token_embedder"]["embedding"], expected)


def test_folder_errors_name_the_field(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no weights, expected model\.safetensors"):
        import_hugging_face(tmp_path)
    export_hugging_face(small_params(), SMALL, tmp_path)
    good = json.loads((tmp_path / "config.json").read_text())
    changes = {
        "model_type 'bert', expected 't5'": {"model_type": "bert"},
        "feed_forward_proj: found 'gelu'": {"feed_forward_proj": "gelu"},
        "layer_norm_epsilon: found 1e-05": {"layer_norm_epsilon": 1e-5},
        "found no d_model": {"d_model": None},
        "shared.weight: found shape (64, 16), expected (65, 16)": {"vocab_size": 65},
    }
    for expected, change in changes.items():
        (tmp_path / "config.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(UserError) as error:
            import_hugging_face(tmp_path)
        assert expected in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="expected a config.json of Hugging Face"):
        import_hugging_face(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(good))
    (tmp_path / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(UserError, match="expected a safetensors file"):
        import_hugging_face(tmp_path)
