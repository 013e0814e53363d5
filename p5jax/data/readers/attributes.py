"""What a table says about the users and items of interactions: attributes, titles, brands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p5jax.data.readers.cells import Matches, listed, text_of
from p5jax.data.readers.columns import item_columns
from p5jax.data.readers.raw import empty_columns

Row = tuple[str, Sequence[object]]  # a key, and the cells of the other columns


def user_attributes(
    source: str, names: Sequence[str], rows: Iterable[Row], users: dict[str, int]
) -> tuple[dict[str, list[str | None]], str]:
    """Return a column for each of a table's `names`, and a sentence on it; keys are left out.

    source: what messages call the table. users: the interactions' keys and their indices.
    UserError when the table has none of them.
    """
    # "user" and "key" are columns of the dataset's own
    labels = [f"{name}_" if name in ("user", "key") else name for name in names]
    columns = empty_columns(labels, len(users))
    matches = Matches(users, "users")
    _fill([columns[label] for label in labels], range(len(names)), rows, matches)
    return columns, matches.understood(source, f", with {listed(names) or 'nothing else'}")


def fill_items(
    source: str,
    names: Sequence[str],
    rows: Iterable[Row],
    items: dict[str, int],
    columns: dict[str, list[str | None]],
    given: Mapping[str, str] | None = None,
) -> str:
    """Fill the items' columns from a table with `names`; return a sentence on it.

    given: dataset column -> the name that holds it; the others are found by their names. Else as
    `user_attributes`.
    """
    given = given or {}
    rest = item_columns([name for name in names if name not in given.values()])
    chosen = {**rest, **given}
    chosen = {column: chosen[column] for column in columns if column in chosen}
    matches = Matches(items, "items")
    positions = [names.index(name) for name in chosen.values()]
    _fill([columns[column] for column in chosen], positions, rows, matches)
    taken = [
        column if column == name else f"{column} from {name}" for column, name in chosen.items()
    ]
    unused = [name for name in names if name not in chosen.values()]
    told = f", with {', '.join(taken) or 'no column that is known'}"
    return matches.understood(source, told + (f"; not used: {listed(unused)}" if unused else ""))


def _fill(
    columns: Sequence[list[str | None]],
    positions: Sequence[int],
    rows: Iterable[Row],
    matches: Matches,
) -> None:
    """Fill each column from a position of the rows; the last value that is known counts."""
    for key, cells in rows:
        index = matches.index(key)
        if index is not None:
            for column, position in zip(columns, positions, strict=True):
                column[index] = text_of(cells[position]) or column[index]
