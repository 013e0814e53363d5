"""The tokenizer beside weights in the format of Hugging Face: written with them, compared with."""

from __future__ import annotations

import json
from pathlib import Path

from p5jax.core.errors import UserError
from p5jax.core.files import replace_text, replaced
from p5jax.text.vocabulary import NUM_SENTINELS, Vocabulary

PIECES, SETTINGS = "spiece.model", "tokenizer_config.json"


def write_tokenizer(vocabulary: Vocabulary, folder: Path) -> None:
    """Write what transformers' AutoTokenizer reads: the same ids for the same text.

    Id tokens are added tokens there, behind the sentinels as in the vocabulary.
    """
    first = vocabulary.size - len(vocabulary.id_tokens)
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
    settings = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": NUM_SENTINELS,
        "legacy": False,
        "added_tokens_decoder": {
            str(first + place): {"content": token, **plain}
            for place, token in enumerate(vocabulary.id_tokens)
        },
    }
    with replaced(folder / PIECES) as beside:
        beside.write_bytes(vocabulary.model)
    replace_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def refuse_other_pieces(source: object, theirs: Vocabulary, ours: Vocabulary) -> None:
    """Raise UserError when weights were trained with other pieces or id tokens than a run has."""
    if _pieces(theirs) != _pieces(ours):
        raise UserError(
            f"{source}: its weights were trained with other pieces than the run's vocabulary;"
            " set RunConfig.vocabulary to their SentencePiece model"
        )
    shared = ours.id_tokens[: len(theirs.id_tokens)]
    if shared != theirs.id_tokens:
        raise UserError(
            f"{source}: its weights were trained with {len(theirs.id_tokens)} id tokens that the"
            " run's vocabulary does not begin with; expected a dataset with the same item ids"
        )


def _pieces(vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.piece(token) for token in range(vocabulary.num_pieces)]
