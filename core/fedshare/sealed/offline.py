"""The sealed product, offline: shares of H s for a bank's secret s and a holder's hint H.

One exchange per query, independent of the number of rows and of the data at the bank:

1. bank: draws s, sends a seed of p1 and p0 = -p1 s + e' (:meth:`OfferedSecret.create`);
2. holder: for every column r, with fresh ternary u, binomial e1 and a uniform mask, sends
   a' = H_r(Y^-1) + p1 u + e1 and b' = mask + (p0 u)_0 (:func:`answer`);
3. bank: h_r = b' + (a' s)_0 = <H_r, s> + mask + eta (:meth:`OfferedSecret.accept`).

Ring-LWE with the holder's own secret u hides H_r from the owner of s, for which p1 must be beyond the bank's
choice: both sides hash the bank's seed into it. The uniform mask hides everything else in b', so b' needs no
error of its own. Of a' the low 16 bits are rounded off: 24,584 bytes per column travel.

Assumes: semi-honest parties. A holder that sends another a' than it should has the bank's next share tell it
about s, and with s all of d; a bank cannot notice.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed.matrix import MAX_COLUMNS
from fedshare.sealed.product import CUT_BITS, HolderMask, OneTime, PreparedSecret
from fedshare.sealed.randomness import SEED_BYTES, Randomness, Stream, fresh_seed
from fedshare.sealed.ring import (
    RING_DIMENSION,
    TERNARY_WIDTH,
    Words,
    limb_spectra,
    multiply,
    negate_exponents,
    spectrum,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OFFER_BYTES", "HolderMask", "OfferedSecret", "answer", "answer_bytes"]

OFFER_BYTES = SEED_BYTES + 8 * RING_DIMENSION

_DIGEST_BYTES = 16
_CUT_BYTES = CUT_BITS // 8
_KEPT_BYTES = 8 - _CUT_BYTES
_COLUMNS_AT_A_TIME = 16


def answer_bytes(columns: int) -> int:
    """Return the length of an answer about ``columns`` columns."""
    return _DIGEST_BYTES + columns * (RING_DIMENSION * _KEPT_BYTES + 8)


class OfferedSecret(OneTime):
    """A bank's ternary secret between its offer and the holder's answer."""

    __slots__ = ("_offer_digest", "_secret")

    def __init__(self, secret: NDArray[np.int8], offer_digest: bytes) -> None:
        super().__init__()
        self._secret = secret
        self._offer_digest = offer_digest

    @classmethod
    def create(cls, randomness: Randomness) -> tuple[OfferedSecret, bytes]:
        """Return a fresh secret and the offer to send, 32,800 bytes; 64 bytes of randomness are drawn."""
        seed = fresh_seed(randomness)
        stream = Stream(fresh_seed(randomness))
        secret = stream.ternary((RING_DIMENSION,))
        product = multiply(limb_spectra(_expand_key(seed), TERNARY_WIDTH), TERNARY_WIDTH, spectrum(secret))
        key = stream.binomial((RING_DIMENSION,)) - product
        offer = seed + key.astype("<i8").tobytes()
        return cls(secret, _digest(offer)), offer

    def accept(self, answer: bytes) -> PreparedSecret:
        """Return the secret with the bank's share of H s, ready for one query; this offer is then used up.

        Raises:
            ParameterError: an answer to this offer was accepted before.
            ProtocolError: the answer is to another offer, or has the length of no 1 to 1,500 columns.
        """
        columns, remainder = divmod(len(answer) - _DIGEST_BYTES, answer_bytes(1) - _DIGEST_BYTES)
        if remainder or not 1 <= columns <= MAX_COLUMNS:
            raise ProtocolError(
                f"expected the length of an answer about 1 to {MAX_COLUMNS} columns, got {len(answer)} bytes"
            )
        if answer[:_DIGEST_BYTES] != self._offer_digest:
            raise ProtocolError("expected the answer to this offer, got one to another offer")
        self._use()
        masked_hints, masked_products = _unpack(answer, columns)
        share = masked_products + masked_hints @ negate_exponents(self._secret.astype(np.int64))
        prepared = PreparedSecret(self._secret.copy(), share)
        self._secret.fill(0)
        return prepared


def answer(hint: Words, offer: bytes, randomness: Randomness) -> tuple[HolderMask, bytes]:
    """Return the holder's masks and its answer to a bank's offer.

    Args:
        hint: H, shape ``[columns, 4096]``, from :func:`fedshare.sealed.matrix.hint`.
        offer: as the bank sent it.
        randomness: 32 bytes are drawn.

    Raises:
        ParameterError: the hint has another shape or type, or more than 1,500 columns.
        ProtocolError: the offer has another length.
    """
    if hint.dtype != np.int64 or hint.ndim != 2 or hint.shape[1] != RING_DIMENSION:
        raise ParameterError(f"expected a hint of shape [columns, 4096] int64, got {hint.shape} {hint.dtype}")
    if not 1 <= len(hint) <= MAX_COLUMNS:
        raise ParameterError(
            f"expected 1 to {MAX_COLUMNS} columns per query, got {len(hint)}: ask in several queries"
        )
    if len(offer) != OFFER_BYTES:
        raise ProtocolError(f"expected an offer of {OFFER_BYTES} bytes, got {len(offer)}")
    stream = Stream(fresh_seed(randomness))
    key = limb_spectra(_expand_key(offer[:SEED_BYTES]), TERNARY_WIDTH)[:, np.newaxis]
    weights = negate_exponents(np.frombuffer(offer[SEED_BYTES:], dtype="<i8").astype(np.int64))
    mask = stream.uniform((len(hint),)).copy()
    kept = np.empty((len(hint), RING_DIMENSION, _KEPT_BYTES), dtype=np.uint8)
    products = np.empty(len(hint), dtype=np.int64)
    for start in range(0, len(hint), _COLUMNS_AT_A_TIME):
        rows = slice(start, min(start + _COLUMNS_AT_A_TIME, len(hint)))
        u = stream.ternary((rows.stop - start, RING_DIMENSION))
        masked = multiply(key, TERNARY_WIDTH, spectrum(u))
        masked += negate_exponents(hint[rows])
        masked += stream.binomial(masked.shape)
        kept[rows] = _round_off(masked)
        products[rows] = u.astype(np.int64) @ weights
    products += mask
    return HolderMask(mask), _digest(offer) + kept.tobytes() + products.astype("<i8").tobytes()


def _expand_key(seed: bytes) -> Words:
    """Return p1; hashing the seed puts p1 beyond the choice of who draws the seed."""
    return Stream(hashlib.sha256(b"fedshare sealed product v1 offered key" + seed).digest()).uniform(
        (RING_DIMENSION,)
    )


def _digest(offer: bytes) -> bytes:
    return hashlib.sha256(offer).digest()[:_DIGEST_BYTES]


def _round_off(words: Words) -> NDArray[np.uint8]:
    """Return the upper 6 bytes of every word, rounded to nearest modulo 2^64, shape ``[..., 6]``."""
    rounded = (words + 2 ** (CUT_BITS - 1)).astype("<i8", copy=False)
    octets: NDArray[np.uint8] = rounded.view(np.uint8).reshape(*words.shape, 8)
    return octets[..., _CUT_BYTES:]


def _unpack(answer: bytes, columns: int) -> tuple[Words, Words]:
    body = np.frombuffer(answer, dtype=np.uint8, offset=_DIGEST_BYTES)
    split = columns * RING_DIMENSION * _KEPT_BYTES
    words = np.zeros((columns, RING_DIMENSION, 8), dtype=np.uint8)
    words[..., _CUT_BYTES:] = body[:split].reshape(columns, RING_DIMENSION, _KEPT_BYTES)
    hints = words.view("<i8").reshape(columns, RING_DIMENSION).astype(np.int64, copy=False)
    return hints, body[split:].copy().view("<i8").astype(np.int64, copy=False)
