"""Where a log's hashes and entries lie, and how to read them back (C2SP tlog-tiles).

A tile is up to 256 consecutive subtree hashes of one level (heights 0, 8, 16, ...); an entry bundle is the
same 256 leaves as length-prefixed entries. `Tiles` answers subtree hashes from tiles for the proof functions;
it reads what a `Source` gives and trusts none of it: the proof or the root decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from fedshare.audit.hashing import HASH_BYTES, expect_size, perfect_root
from fedshare.errors import ParameterError, ProtocolError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "CHECKPOINT_PATH",
    "MAX_ENTRY_BYTES",
    "TILE_WIDTH",
    "Source",
    "Tiles",
    "bundle_path",
    "decode_bundle",
    "encode_bundle",
    "parse_path",
    "read_bundle",
    "resource_paths",
    "tile_path",
]

CHECKPOINT_PATH = "checkpoint"
TILE_WIDTH = 256
# Entries are prefixed with a big-endian uint16.
MAX_ENTRY_BYTES = 2**16 - 1
_TILE_HEIGHT = 8
_MAX_LEVEL = 63
_MAX_CACHED_TILES = 1024

_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]|[1-5][0-9]|6[0-3])/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


class Source(Protocol):
    """Something that serves a log's files, by path under the log's prefix."""

    def read(self, path: str) -> bytes:
        """Return the file's bytes.

        Raises:
            UnavailableError: there is no such file here now.
        """


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of the tile, ``tile/<L>/<N>[.p/<W>]``.

    Raises:
        ParameterError: level, index or width is out of range.
    """
    if not 0 <= level <= _MAX_LEVEL:
        raise ParameterError(f"expected a tile level between 0 and {_MAX_LEVEL}, found {level}")
    return f"tile/{level}/{_place(index, width)}"


def bundle_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of the entry bundle, ``tile/entries/<N>[.p/<W>]``; raises as `tile_path` does."""
    return f"tile/entries/{_place(index, width)}"


def _place(index: int, width: int) -> str:
    if not 0 <= index < 2**63 or not 1 <= width <= TILE_WIDTH:
        raise ParameterError("expected a tile index below 2^63 and a width between 1 and 256")
    parts = [f"{index % 1000:03}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03}")
    place = "/".join(reversed(parts))
    return place if width == TILE_WIDTH else f"{place}.p/{width}"


def parse_path(path: str) -> tuple[int | None, int, int]:
    """Return (level, index, width) of a tile's path, or (None, index, width) of an entry bundle's.

    Raises:
        ProtocolError: the path is not exactly as `tile_path` or `bundle_path` writes it.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ProtocolError("expected the path of a tile or entry bundle")
    index = int(match["index"].replace("/x", "").replace("/", "").removeprefix("x"))
    width = int(match["width"] or TILE_WIDTH)
    level = None if match["level"] == "entries" else int(match["level"])
    if width > TILE_WIDTH or index >= 2**63:
        raise ProtocolError("expected a tile index below 2^63 and a width between 1 and 255")
    if path != (bundle_path(index, width) if level is None else tile_path(level, index, width)):
        raise ProtocolError("expected the path of a tile or entry bundle in its one spelling")
    return level, index, width


def resource_paths(size: int) -> Iterator[str]:
    """Yield the paths of all tiles and bundles that a tree of ``size`` consists of, partial ones included."""
    expect_size(size, "a tree size")
    level, count = 0, size
    while count:
        full, partial = divmod(count, TILE_WIDTH)
        widths = [(index, TILE_WIDTH) for index in range(full)] + ([(full, partial)] if partial else [])
        for index, width in widths:
            if level == 0:
                yield bundle_path(index, width)
            yield tile_path(level, index, width)
        level, count = level + 1, full


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return ``entries`` as big-endian uint16 length-prefixed bytes.

    Raises:
        ParameterError: an entry is over 65,535 bytes.
    """
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise ParameterError(f"expected entries of at most {MAX_ENTRY_BYTES} bytes, found {len(entry)}")
    return b"".join(part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry))


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Return the first ``width`` entries of a bundle of at least as many.

    Raises:
        ProtocolError: the bundle is cut short or has bytes that are no entry.
    """
    entries: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "big")
        if start > end or offset > end:
            raise ProtocolError("the entry bundle is cut short inside an entry")
        entries.append(data[start:offset])
    if not width <= len(entries) <= TILE_WIDTH:
        raise ProtocolError(f"expected an entry bundle of {width} entries, found {len(entries)}")
    return entries[:width]


def read_bundle(source: Source, index: int, width: int) -> list[bytes]:
    """Return ``width`` entries of bundle ``index``, from the full bundle if the partial one is gone.

    Raises:
        UnavailableError: neither is there.
        ProtocolError: what is there is malformed.
    """
    return decode_bundle(_read_either(source, bundle_path(index, width), bundle_path(index)), width)


def _read_either(source: Source, partial: str, full: str) -> bytes:
    try:
        return source.read(partial)
    except UnavailableError:
        if partial == full:
            raise
        return source.read(full)


class Tiles:
    """The subtree hashes of the tree of ``size`` whose tiles ``source`` serves; call it as `Nodes`.

    Args:
        source: not trusted; whatever is computed from these hashes must be compared with a trusted root.
        size: of the tree, which decides the width of the partial tiles.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = expect_size(size, "a tree size")
        self._cache: dict[tuple[int, int], bytes] = {}

    def __call__(self, height: int, index: int) -> bytes:
        """Return the hash of leaves [index * 2^height, (index + 1) * 2^height).

        Raises:
            ParameterError: the tree has no such perfect subtree.
            UnavailableError: the tile is not there.
            ProtocolError: the tile is malformed.
        """
        if (index + 1) << height > self._size:
            raise ParameterError(f"the tree of size {self._size} has no subtree {index} of height {height}")
        level, rise = divmod(height, _TILE_HEIGHT)
        first = index << rise
        tile, offset = divmod(first, TILE_WIDTH)
        data = self._tile(level, tile)
        hashes = [data[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(offset, offset + (1 << rise))]
        return perfect_root(hashes)

    def tile(self, level: int, index: int) -> bytes:
        """Return the tile's bytes, as wide as it is in this tree."""
        return self._tile(level, index)

    def _tile(self, level: int, index: int) -> bytes:
        data = self._cache.get((level, index))
        if data is None:
            width = min(TILE_WIDTH, (self._size >> (_TILE_HEIGHT * level)) - index * TILE_WIDTH)
            data = _read_either(self._source, tile_path(level, index, width), tile_path(level, index))
            if len(data) % HASH_BYTES or not width <= len(data) // HASH_BYTES <= TILE_WIDTH:
                raise ProtocolError(f"expected a tile of {width} hashes, found {len(data)} bytes")
            if len(self._cache) >= _MAX_CACHED_TILES:
                self._cache.clear()
            data = self._cache[level, index] = data[: width * HASH_BYTES]
        return data
