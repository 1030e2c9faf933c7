"""The sealed product, online: a bank's private vector d becomes X^T d at the holder of X.

    c = (a_j s + e_j)_j + d        the bank's one message, with its share of <H, s>
    X^T c - (share - mask) = X^T d + noise          at the holder

``s`` is ternary and fresh, ``e`` centred binomial; shares of H s come from :mod:`fedshare.sealed.offline`.
``docs/sealed.md`` has the parameters, the security argument, the noise and the range.

    prepared, _ = ...                                            # bank, from the offline part
    bits = scale_bits(rows, max_abs_x=1, max_abs_d=1.0)          # both
    ciphertext, share = prepared.encrypt(public, d, bits, os.urandom)    # bank; consumes `prepared`
    gradient = decode(recover(private, ciphertext, share, mask), bits)   # holder
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed.matrix import MAX_ABS_X, MAX_COLUMNS, PrivateMatrix, PublicMatrix
from fedshare.sealed.randomness import BINOMIAL_ETA, Randomness, Stream, fresh_seed
from fedshare.sealed.ring import RING_DIMENSION, TERNARY_WIDTH, Words, limb_spectra, multiply, spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MAX_SCALE_BITS",
    "HolderMask",
    "OneTime",
    "PreparedSecret",
    "decode",
    "flood_bits",
    "noise_deviation",
    "recover",
    "scale_bits",
]

#: More fixed-point bits than these gain nothing on float64 residuals.
MAX_SCALE_BITS = 44

#: Bits cut from every coefficient of the offline answer: 6 of 8 bytes travel.
CUT_BITS = 16

# |X^T d| and all noise stay below 2^62, so a sum of int64 neither wraps nor comes near wrapping.
_RANGE_BITS = 62
# The flood covers the sensitivity of the hint with 3 bits (a factor of 8) to spare; at least 2^24, which
# does so for what the cut bits of the offline answer let the holder know about s.
_FLOOD_MARGIN_BITS = 3
_MIN_FLOOD_BITS = 24
# A rounded Gaussian of Stream.gaussian never exceeds 8.6 standard deviations.
_FLOOD_TAIL = 9
_BLOCKS_AT_A_TIME = 16


class OneTime:
    """An object that may be used once: it cannot be copied or stored, and its second use raises."""

    __slots__ = ("_uses_left",)

    def __init__(self) -> None:
        self._uses_left = [1]

    def _use(self) -> None:
        # Taking the one element is atomic, so two threads cannot both pass.
        try:
            self._uses_left.pop()
        except IndexError:
            raise ParameterError(
                f"this {type(self).__name__} was used before: every query needs a fresh one"
            ) from None

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ParameterError(f"a {type(self).__name__} is used once and cannot be copied or stored")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'unused' if self._uses_left else 'used'})"


class HolderMask:
    """A holder's uniform masks of one query, shape ``[columns]``; secret."""

    __slots__ = ("values",)

    def __init__(self, values: Words) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"HolderMask(columns={len(self.values)})"


class PreparedSecret(OneTime):
    """A bank's ternary secret s and its share h = H s + mask of one query."""

    __slots__ = ("_secret", "_share")

    def __init__(self, secret: NDArray[np.int8], share: Words) -> None:
        """Keep a secret of shape ``[4096]`` and a share of shape ``[columns]``."""
        super().__init__()
        self._secret = secret
        self._share = share

    @property
    def columns(self) -> int:
        """Columns of the holder's matrix."""
        return len(self._share)

    def encrypt(
        self,
        public: PublicMatrix,
        d: NDArray[np.float64],
        scale_bits: int,
        randomness: Randomness,
        *,
        max_abs_x: int = 1,
        added: Words | None = None,
    ) -> tuple[Words, Words]:
        """Return (ciphertext, share), the bank's message, and destroy the secret.

        Args:
            public: the ring elements of the holder's rows.
            d: one number per row of the holder's universe, shape ``[rows]``; zero where not a customer.
            scale_bits: fixed-point bits, from :func:`scale_bits`.
            randomness: 32 bytes are drawn.
            max_abs_x: bound on the holder's entries: 1 for one-hot columns.
            added: words to add to ``d`` in fixed point, shape ``[rows]``, of any size: a share of a vector whose other share
                another bank adds. What both make of ``d`` together must not be larger than ``d``.

        Returns:
            ``ciphertext`` of shape ``[rows]`` and ``share`` of shape ``[columns]``, int64.

        Raises:
            ParameterError: used before; ``d`` has another shape or type, is not finite, or X^T d might
                leave the range; nothing is released then and the secret stays unused.
        """
        _check_d(d, public.rows, self.columns, scale_bits, max_abs_x)
        if added is not None and (added.dtype != np.int64 or added.shape != d.shape):
            raise ParameterError(f"expected words of shape [{public.rows}] int64 to add, got {added.shape}")
        self._use()
        stream = Stream(fresh_seed(randomness))
        ciphertext = _encrypt_blocks(public, d, float(2**scale_bits), self._secret, stream)
        if added is not None:
            ciphertext += added
        flood = stream.gaussian((self.columns,), 2.0 ** flood_bits(public.rows, self.columns, max_abs_x))
        share = self._share + flood
        self._secret.fill(0)
        self._share.fill(0)
        return ciphertext, share


def recover(private: PrivateMatrix, ciphertext: Words, share: Words, mask: HolderMask) -> Words:
    """Return X^T d in fixed point plus noise, shape ``[columns]``.

    With several banks, add up the results of each before :func:`decode`.

    Args:
        private: the holder's X.
        ciphertext: shape ``[rows]``, from the bank.
        share: shape ``[columns]``, from the bank.
        mask: the holder's masks of this query.

    Raises:
        ProtocolError: the bank's arrays do not have these shapes or are not int64.
    """
    if ciphertext.dtype != np.int64 or ciphertext.shape != (private.rows,):
        raise ProtocolError(
            f"expected a ciphertext of {private.rows} int64, got {ciphertext.shape} {ciphertext.dtype}"
        )
    if share.dtype != np.int64 or share.shape != (private.columns,) or mask.values.shape != share.shape:
        raise ProtocolError(
            f"expected a share of {private.columns} int64, got shape {share.shape} of {share.dtype}"
        )
    return private.transposed_product(np.ascontiguousarray(ciphertext)) - (share - mask.values)


def decode(values: Words, scale_bits: int) -> NDArray[np.float64]:
    """Return fixed-point ``values`` as float64."""
    return values.astype(np.float64) * 2.0**-scale_bits


def scale_bits(rows: int, max_abs_x: int, max_abs_d: float) -> int:
    """Return the most bits k, at most 44, with ``rows * max_abs_x * max_abs_d * 2^k + noise < 2^62``.

    Args:
        rows: rows whose d may be nonzero, at most; once per bank when the results of several are added up.
        max_abs_x: bound on the entries of X; 1 for one-hot columns.
        max_abs_d: bound on |d|.

    Raises:
        ParameterError: an argument is not positive and finite, or not even one bit is left.
    """
    if rows < 1 or not 1 <= max_abs_x <= MAX_ABS_X or not 0.0 < max_abs_d < math.inf:
        raise ParameterError(
            f"expected rows >= 1, max_abs_x in 1..{MAX_ABS_X} and a finite max_abs_d > 0, "
            f"got {rows}, {max_abs_x} and {max_abs_d}"
        )
    room = 2**_RANGE_BITS - _noise_bound(rows, MAX_COLUMNS, max_abs_x)
    bits = (
        math.floor(math.log2(room) - math.log2(rows * max_abs_x) - math.log2(max_abs_d) - 1e-9)
        if room > 0
        else 0
    )
    if bits < 1:
        raise ParameterError("no fixed-point bits are left: fewer rows or smaller entries are needed")
    return min(MAX_SCALE_BITS, bits)


def flood_bits(rows: int, columns: int, max_abs_x: int) -> int:
    """Return log2 of the standard deviation of the Gaussian that the bank adds to its share.

    It makes the linear hint that the holder learns about (e, s) a noisy one, so wide that the hint is worth
    nothing: 8 * sigma * ||X||, with ||X|| <= max_abs_x * sqrt(rows * columns), and at least 2^24.
    """
    sensitivity = 0.5 * math.log2(BINOMIAL_ETA / 2) + math.log2(max_abs_x) + 0.5 * math.log2(rows * columns)
    return max(_MIN_FLOOD_BITS, math.ceil(sensitivity) + _FLOOD_MARGIN_BITS)


def noise_deviation(rows: int, columns: int, max_abs_x: int, scale_bits: int) -> float:
    """Return a bound on the standard deviation of the error of a decoded component, in units of X^T d.

    The flood, the cut bytes of the offline answer and X^T e; rounding d adds at most
    ``customers * max_abs_x * 2^-(scale_bits + 1)`` to it.
    """
    flood = 4.0 ** flood_bits(rows, columns, max_abs_x)
    cut = 4.0**CUT_BITS / 12 * RING_DIMENSION * 2 / 3
    errors = BINOMIAL_ETA / 2 * (rows * max_abs_x**2 + 2 * RING_DIMENSION)
    return math.sqrt(flood + cut + errors) * 2.0**-scale_bits


def _noise_bound(rows: int, columns: int, max_abs_x: int) -> int:
    """Return what no noise exceeds: errors on X, on u and s, cut bytes against s, and the flood."""
    errors = BINOMIAL_ETA * (rows * max_abs_x + 2 * RING_DIMENSION)
    cut = RING_DIMENSION << (CUT_BITS - 1)
    return errors + cut + (_FLOOD_TAIL << flood_bits(rows, columns, max_abs_x))


def _check_d(d: NDArray[np.float64], rows: int, columns: int, bits: int, max_abs_x: int) -> None:
    if d.dtype != np.float64 or d.shape != (rows,):
        raise ParameterError(f"expected d of shape [{rows}] float64, got {d.shape} {d.dtype}")
    if not 1 <= bits <= MAX_SCALE_BITS or not 1 <= max_abs_x <= MAX_ABS_X:
        raise ParameterError(
            f"expected scale_bits in 1..{MAX_SCALE_BITS} and max_abs_x in 1..{MAX_ABS_X}, "
            f"got {bits} and {max_abs_x}"
        )
    with np.errstate(over="ignore"):
        total = float(np.abs(d).sum())
    if not math.isfinite(total):
        raise ParameterError("d has entries that are not finite")
    # Rounding moves an entry by at most one half; the sum of |d| bounds any |X^T d| without a look at X.
    if (total * 2**bits + rows / 2) * max_abs_x + _noise_bound(rows, columns, max_abs_x) >= 2**_RANGE_BITS:
        raise ParameterError(
            f"X^T d might leave the range at {bits} fixed-point bits: use fewer, see scale_bits"
        )


def _encrypt_blocks(
    public: PublicMatrix, d: NDArray[np.float64], scale: float, secret: NDArray[np.int8], stream: Stream
) -> Words:
    ciphertext = np.empty(public.rows, dtype=np.int64)
    secret_spectrum = spectrum(secret)
    for start in range(0, public.blocks, _BLOCKS_AT_A_TIME):
        stop = min(start + _BLOCKS_AT_A_TIME, public.blocks)
        large = limb_spectra(public.elements(start, stop), TERNARY_WIDTH)
        samples = multiply(large, TERNARY_WIDTH, secret_spectrum)
        samples += stream.binomial(samples.shape)
        rows = slice(start * RING_DIMENSION, min(stop * RING_DIMENSION, public.rows))
        fixed = np.rint(d[rows] * scale).astype(np.int64)
        np.add(samples.reshape(-1)[: fixed.size], fixed, out=ciphertext[rows])
    return ciphertext
