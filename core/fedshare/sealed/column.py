"""Sealed columns: one number per row, for whoever holds the row's key, and summed over the holders.

The holder adds to every row a pad that only an owner of the row key can compute, and masks that cancel
between holders, row by row, so that opening works on the sum over all holders only:

    v_i = u_i + pad(K_i, L) + sum over peers of (+ or -) pad(P_i, L)   mod 2^64,      pad(K, L) = MMO(K xor L)

MMO is the Matyas-Meyer-Oseas form pi(x) xor x of a fixed public permutation pi, here AES-128 under a public
key; L is the first half of SHA-256 of the label. Source: Guo, Katz, Wang, Yu 2020, "Efficient and secure
multiparty computation from fixed-key block ciphers" (IEEE S&P): MMO is correlation robust when pi is ideal,
so under a secret random K the pads of different labels are independent and uniform.

Rules the caller keeps: a label is used for one column only, under one set of keys (:class:`Sealer` refuses
the second use); the two holders of a pair use the same label and opposite signs; every holder's universe
has the opened rows.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KEY_BYTES", "Sealer", "open_sum", "pair_row_keys", "seal"]

Keys: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.int64]
PairMask: TypeAlias = tuple[int, Keys]

KEY_BYTES = 16

# Rows at a time, so that the blocks stay in the processor's cache.
_CHUNK_ROWS = 2**15

#: The public key of the permutation: the first half of SHA-256 of a sentence, so that nobody chose it.
_PERMUTATION_KEY = hashlib.sha256(b"fedshare sealed column v1 permutation").digest()[:KEY_BYTES]


def pair_row_keys(pair_secret: bytes, identifiers: Sequence[bytes]) -> Keys:
    """Return one key per identifier, the same at both holders of a pair: HMAC-SHA256, cut to 16 bytes.

    Args:
        pair_secret: 32 bytes shared by two holders and nobody else, of this session only.
        identifiers: normalised identifiers of the rows, in the caller's own order.

    Returns:
        Shape ``[rows, 16]``.

    Raises:
        ParameterError: the secret is not 32 bytes.
    """
    if len(pair_secret) != 32:
        raise ParameterError(f"expected a pair secret of 32 bytes, got {len(pair_secret)}")
    digests = b"".join([hmac.digest(pair_secret, identifier, "sha256") for identifier in identifiers])
    rows = np.frombuffer(digests, dtype=np.uint8).reshape(len(identifiers), 32)
    return np.ascontiguousarray(rows[:, :KEY_BYTES])


def seal(values: Words, pad_keys: Keys, pair_masks: Sequence[PairMask], label: bytes) -> Words:
    """Return ``values`` sealed for the owners of ``pad_keys`` and masked against the other holders.

    Args:
        values: one integer per row, shape ``[rows]``; fixed point is the caller's business.
        pad_keys: the rows' keys, shape ``[rows, 16]``.
        pair_masks: for every other holder a sign and the pair's row keys. The two holders of a pair use
            opposite signs.
        label: names this column; never used again with these keys.

    Raises:
        ParameterError: shapes or types differ from the above, a sign is not +1 or -1, or the label is empty.
    """
    _check_values(values)
    whitener = _whitener(label)
    sealed = values.copy()
    for sign, keys in ((1, pad_keys), *pair_masks):
        _add_pads(sealed, sign, keys, whitener)
    return sealed


def open_sum(columns: Sequence[Words], pad_keys: Sequence[Keys], label: bytes) -> Words:
    """Return the sum over holders of what they sealed under ``label``, for the caller's own rows.

    Args:
        columns: one sealed column per holder, already gathered to the same rows, shape ``[rows]`` each.
        pad_keys: the caller's row keys at each holder, same order and rows, shape ``[rows, 16]`` each.
        label: as the holders used it.

    Returns:
        Shape ``[rows]``. Wrong rows, keys or labels, or a holder left out, give uniform noise, not an error.

    Raises:
        ParameterError: the numbers of columns and keys differ, there are none, or shapes differ.
    """
    if len(columns) != len(pad_keys) or not columns:
        raise ParameterError(
            f"expected keys for each of {len(columns)} columns (at least one), got {len(pad_keys)}"
        )
    whitener = _whitener(label)
    total = np.zeros_like(columns[0])
    for column, keys in zip(columns, pad_keys, strict=True):
        _check_values(column)
        if column.shape != total.shape:
            raise ParameterError(f"expected columns of {total.size} rows each, got {column.size}")
        total += column
        _add_pads(total, -1, keys, whitener)
    return total


class Sealer:
    """A holder's keys for one session, sealing each label once.

    A label used twice would show everyone the difference of two columns: the second use raises.
    """

    __slots__ = ("_pad_keys", "_pair_masks", "_used")

    def __init__(self, pad_keys: Keys, pair_masks: Sequence[PairMask]) -> None:
        self._pad_keys = pad_keys
        self._pair_masks = tuple(pair_masks)
        self._used: set[bytes] = set()

    def __repr__(self) -> str:
        return f"Sealer(rows={len(self._pad_keys)}, peers={len(self._pair_masks)}, sealed={len(self._used)})"

    def seal(self, values: Words, label: bytes) -> Words:
        """Return :func:`seal` of ``values`` under this holder's keys.

        Raises:
            ParameterError: the label was used before, or as :func:`seal`.
        """
        if label in self._used:
            raise ParameterError(
                "a sealed column's label was used before: every column needs a label of its own"
            )
        sealed = seal(values, self._pad_keys, self._pair_masks, label)
        self._used.add(label)
        return sealed


def _whitener(label: bytes) -> NDArray[np.uint64]:
    if not label:
        raise ParameterError("expected a label for the sealed column, got an empty one")
    return np.frombuffer(hashlib.sha256(label).digest()[:KEY_BYTES], dtype=np.uint64)


def _add_pads(total: Words, sign: int, keys: Keys, whitener: NDArray[np.uint64]) -> None:
    """Add to ``total``, in place, ``sign`` times the low 64 bits of MMO(K xor L) for every row key K."""
    if sign not in (1, -1):
        raise ParameterError(f"expected a sign of +1 or -1 for a pair mask, got {sign}")
    if keys.dtype != np.uint8 or keys.shape != (total.size, KEY_BYTES):
        raise ParameterError(
            f"expected row keys of shape [{total.size}, {KEY_BYTES}] uint8, got {keys.shape} {keys.dtype}"
        )
    # One public permutation over independent blocks is the construction: no message has a pattern to show.
    permutation = Cipher(algorithms.AES(_PERMUTATION_KEY), modes.ECB()).encryptor()  # noqa: S305
    words = np.ascontiguousarray(keys).view(np.uint64)
    for start in range(0, total.size, _CHUNK_ROWS):
        chunk = words[start : start + _CHUNK_ROWS]
        blocks = np.empty_like(chunk)
        for half in (0, 1):
            np.bitwise_xor(chunk[:, half], whitener[half], out=blocks[:, half])
        permuted = np.frombuffer(permutation.update(blocks.tobytes()), dtype=np.int64).reshape(-1, 2)
        pads = permuted[:, 0] ^ blocks.view(np.int64)[:, 0]
        total[start : start + _CHUNK_ROWS] += sign * pads


def _check_values(values: Words) -> None:
    if values.dtype != np.int64 or values.ndim != 1:
        raise ParameterError(f"expected a column of shape [rows] int64, got {values.shape} {values.dtype}")
