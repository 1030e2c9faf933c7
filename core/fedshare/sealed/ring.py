"""The ring Z_q[Y] / (Y^N + 1) with N = 4096 and q = 2^64, as int64 arrays that wrap around.

Only products of a full-range element with a small one (ternary, or a block of a bounded integer column) are
needed. The large factor is cut into signed limbs, each limb's product is taken with a float64 FFT of length
N/2 (the two halves folded into real and imaginary part, then twisted), rounded, shifted and added.

Exactness. Higham, "Accuracy and Stability of Numerical Algorithms" (2nd ed.), theorem 24.2: a transform of
length N/2 = 2^11 has a relative error of at most 74u in the 2-norm, u = 2^-53. A limb of w bits has a 2-norm
of at most 2^6 * 2^(w-1); a factor bounded by B has a spectrum of at most 4096 * B, and its own transform an
error of at most 74u * sqrt(2048) * 64 * B < 74u * 4096 * B. Two forward transforms, the product and the
inverse transform leave an error of at most 256u * 2^(w+5) * 2^12 * B = 2^(w-28) * B in every coefficient, and
``g`` products added up before the inverse transform ``g`` times that. Rounding is exact below one half:

    width 22 (3 limbs): B * g < 2^5     width 16 (4 limbs): B * g < 2^11     width 8 (8 limbs): B * g < 2^19

The tests compare worst cases (all coefficients extreme, signs aligned) with exact integer arithmetic.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = [
    "RING_DIMENSION",
    "TERNARY_WIDTH",
    "add_up_limbs",
    "exact_bound",
    "inverse",
    "limb_spectra",
    "multiply",
    "negate_exponents",
    "spectrum",
]

Words: TypeAlias = NDArray[np.int64]
Spectrum: TypeAlias = NDArray[np.complex128]

RING_DIMENSION = 4096
_HALF = RING_DIMENSION // 2
_TWIST = np.exp(1j * np.pi * np.arange(_HALF) / RING_DIMENSION)
_UNTWIST = _TWIST.conj()
_MODULUS_BITS = 64

#: Limb width of a product with one ternary factor: 3 limbs.
TERNARY_WIDTH = 22


def exact_bound(width: int) -> int:
    """Return how large the docstring's B * g may be at this limb width, with a factor of two to spare."""
    return 1 << (26 - width)


def spectrum(values: NDArray[Any]) -> Spectrum:
    """Return the folded spectrum, shape ``[..., 2048]``, of real coefficients of shape ``[..., 4096]``."""
    folded = np.empty((*values.shape[:-1], _HALF), dtype=np.complex128)
    folded.real = values[..., :_HALF]
    folded.imag = values[..., _HALF:]
    folded *= _TWIST
    return np.asarray(scipy.fft.fft(folded, axis=-1, overwrite_x=True))


def inverse(spectra: Spectrum) -> Words:
    """Return the coefficients, rounded to integers, of a spectrum; ``spectra`` is overwritten."""
    folded = np.asarray(scipy.fft.ifft(spectra, axis=-1, overwrite_x=True))
    folded *= _UNTWIST
    coefficients = np.empty((*folded.shape[:-1], RING_DIMENSION), dtype=np.int64)
    np.rint(folded.real, out=coefficients[..., :_HALF], casting="unsafe")
    np.rint(folded.imag, out=coefficients[..., _HALF:], casting="unsafe")
    return coefficients


def limb_spectra(elements: Words, width: int) -> Spectrum:
    """Return the spectra of the signed limbs of ``elements``, lowest limb first.

    Args:
        elements: ring elements, shape ``[..., 4096]``.
        width: bits of a limb.

    Returns:
        Shape ``[limbs, ..., 2048]``; limb ``k`` weighs 2^(width * k).
    """
    count = -(-_MODULUS_BITS // width)
    shift = _MODULUS_BITS - width
    limbs = np.empty((count, *elements.shape), dtype=np.int64)
    rest = elements
    for limb in limbs[:-1]:
        np.right_shift(rest << shift, shift, out=limb)
        rest = (rest >> width) + (limb < 0)
    limbs[-1] = rest
    return spectrum(limbs)


def add_up_limbs(products: Words, width: int) -> Words:
    """Return the sum of limb products, shape ``[limbs, ..., 4096]``, weighed and reduced modulo 2^64."""
    total: Words = products[-1]
    for product in products[-2::-1]:
        total = (total << width) + product
    return total


def multiply(large: Spectrum, width: int, small: Spectrum) -> Words:
    """Return the products of full-range elements with small ones, modulo Y^4096 + 1 and 2^64.

    Args:
        large: from :func:`limb_spectra` at ``width``.
        width: bits of a limb.
        small: spectra of the small factors, broadcast against ``large[0]``.
    """
    return add_up_limbs(inverse(large * small), width)


def negate_exponents(elements: Words) -> Words:
    """Return a(Y^-1) for every a in ``elements``: all but the constant turn round and change sign."""
    turned = np.empty_like(elements)
    turned[..., 0] = elements[..., 0]
    np.negative(elements[..., :0:-1], out=turned[..., 1:])
    return turned
