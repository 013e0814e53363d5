"""The tokenizer beside weights in the format of Hugging Face: written with them, compared with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError
from p5jax.core.files import replace_text, replaced
from p5jax.core.kinds import refuse_other
from p5jax.text.vocabulary import NUM_SENTINELS, Vocabulary

PIECES, SETTINGS = "spiece.model", "tokenizer_config.json"
_ADDED = "added_tokens_decoder"


class _Settings(TypedDict):
    """What is read of a tokenizer_config.json."""

    added_tokens_decoder: NotRequired[
        dict[Annotated[str, re.compile("[0-9]{1,9}")], dict[str, object]]
    ]


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
        _ADDED: {
            str(first + place): {"content": token, **plain}
            for place, token in enumerate(vocabulary.id_tokens)
        },
    }
    with replaced(folder / PIECES) as beside:
        beside.write_bytes(vocabulary.model)
    replace_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def refuse_other_tokenizer(source: object, folder: Path, ours: Vocabulary) -> None:
    """`refuse_other_pieces` of the tokenizer beside weights; UserError too for a damaged one."""
    theirs = Vocabulary.from_model(folder / PIECES)
    refuse_other_pieces(source, theirs, ours)
    first = theirs.num_pieces + NUM_SENTINELS
    tokens = _id_tokens(folder / SETTINGS, first)
    if sorted(tokens.items()) != [*enumerate(ours.id_tokens[: len(tokens)], first)]:
        raise _other_id_tokens(source, len(tokens))


def refuse_other_pieces(source: object, theirs: Vocabulary, ours: Vocabulary) -> None:
    """Raise UserError when weights were trained with other pieces or id tokens than a run has."""
    if _pieces(theirs) != _pieces(ours):
        raise UserError(
            f"{source}: its weights were trained with other pieces than the run's vocabulary;"
            " set RunConfig.vocabulary to their SentencePiece model"
        )
    if ours.id_tokens[: len(theirs.id_tokens)] != theirs.id_tokens:
        raise _other_id_tokens(source, len(theirs.id_tokens))


def _other_id_tokens(source: object, count: int) -> UserError:
    return UserError(
        f"{source}: its weights were trained with {count} id tokens that the"
        " run's vocabulary does not begin with; expected a dataset with the same item ids"
    )


def _id_tokens(file: Path, first: int) -> dict[int, object]:
    """The added tokens from the id `first` on, behind the sentinels; none without the file."""
    if not file.is_file():
        return {}
    given = read_json(file, dict[str, object], "a tokenizer_config.json of Hugging Face's")
    settings = {_ADDED: given[_ADDED]} if given.get(_ADDED) is not None else {}
    refuse_other(file, settings, _Settings)
    added = settings.get(_ADDED, {})
    return {int(id): token.get("content") for id, token in added.items() if int(id) >= first}


def _pieces(vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.piece(token) for token in range(vocabulary.num_pieces)]
