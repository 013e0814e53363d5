"""What the manifest of a dataset folder says."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from p5jax.core.kinds import Checksum, Count


class _Source(TypedDict):
    path: str
    bytes: Count
    sha256: Checksum


class _Ids(TypedDict):
    scheme: str
    seed: NotRequired[int]
    leaky: bool
    levels: NotRequired[Annotated[int, range(1, 1 << 31)]]
    codes: NotRequired[Annotated[int, range(2, 1 << 31)]]
    vectors: NotRequired[str]


class _Checksums(TypedDict):
    users: Checksum
    items: Checksum
    interactions: Checksum
    reviews: Checksum


class Manifest(TypedDict):
    """A manifest, beside its format version."""

    name: str
    format: str
    sources: list[_Source]
    protocol: dict[str, Any]
    counts: dict[str, Count]
    item_ids: _Ids
    understood: NotRequired[dict[str, str]]
    tables: _Checksums
