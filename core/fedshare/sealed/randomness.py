"""Randomness as an argument, and the stream cipher that expands it.

Every secret of the sealed primitives comes out of one :class:`Stream`: AES-256 in counter mode under a key
that the caller's :data:`Randomness` handed in. It is faster here than NumPy's statistical generators, so
there is no place for one of those.

    stream = Stream(fresh_seed(os.urandom))
    secret = stream.ternary((4096,))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedshare.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BINOMIAL_ETA", "SEED_BYTES", "Randomness", "Stream", "fresh_seed"]

#: The shape of ``os.urandom``: so many bytes, uniform and unpredictable.
Randomness: TypeAlias = Callable[[int], bytes]

Shape: TypeAlias = tuple[int, ...]

SEED_BYTES = 32

#: Centred binomial parameter: variance eta / 2, so a standard deviation of 3.24 and a support of [-21, 21].
BINOMIAL_ETA = 21


def fresh_seed(randomness: Randomness) -> bytes:
    """Return 32 bytes from ``randomness``.

    Raises:
        ParameterError: the source gave another number of bytes.
    """
    seed = randomness(SEED_BYTES)
    if len(seed) != SEED_BYTES:
        raise ParameterError(
            f"expected {SEED_BYTES} random bytes, got {len(seed)}: use a source like os.urandom"
        )
    return seed


class Stream:
    """The AES-256-CTR keystream of a seed, read from the front, as the distributions the ring needs.

    Assumes: the seed is uniform and known only to who may know the samples. AES-256 is a pseudo-random
    permutation; one stream stays far below 2^64 blocks.
    """

    __slots__ = ("_keystream",)

    def __init__(self, seed: bytes, skip_bytes: int = 0) -> None:
        """Start at byte ``skip_bytes`` (a multiple of the 16-byte block) of the keystream of ``seed``.

        Raises:
            ParameterError: the seed is not 32 bytes, or the start is not on a block.
        """
        if len(seed) != SEED_BYTES:
            raise ParameterError(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        blocks, remainder = divmod(skip_bytes, 16)
        if remainder or blocks < 0:
            raise ParameterError(f"expected a start on a 16-byte block, got byte {skip_bytes}")
        self._keystream = Cipher(algorithms.AES(seed), modes.CTR(blocks.to_bytes(16, "big"))).encryptor()

    def __repr__(self) -> str:
        return "Stream(hidden)"

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        return self._keystream.update(bytes(size))

    def uniform(self, shape: Shape) -> NDArray[np.int64]:
        """Return integers uniform modulo 2^64, as int64."""
        size = _size(shape)
        return np.frombuffer(self.read(8 * size), dtype="<i8").astype(np.int64, copy=False).reshape(shape)

    def ternary(self, shape: Shape) -> NDArray[np.int8]:
        """Return integers uniform on {-1, 0, 1}: exact, since the byte 255 is refused."""
        size = _size(shape)
        kept = np.empty(0, dtype=np.uint8)
        while kept.size < size:
            missing = size - kept.size
            drawn = np.frombuffer(self.read(missing + missing // 64 + 64), dtype=np.uint8)
            kept = np.concatenate([kept, drawn[drawn != 255]])
        return (kept[:size] % 3).astype(np.int8).reshape(shape) - np.int8(1)

    def binomial(self, shape: Shape) -> NDArray[np.int64]:
        """Return centred binomial integers with eta = 21: the weight of 42 random bits, less 21."""
        words = self.uniform(shape).view(np.uint64) >> np.uint64(64 - 2 * BINOMIAL_ETA)
        samples: NDArray[np.int64] = np.bitwise_count(words).astype(np.int64)
        samples -= BINOMIAL_ETA
        return samples

    def gaussian(self, shape: Shape, deviation: float) -> NDArray[np.int64]:
        """Return Gaussian integers of the given standard deviation, rounded (Box and Muller 1958).

        Rounding to integers is far below the resolution of the deviations this library asks for (2^24 and
        more), and a 53-bit radius cuts the tail at 8.5 standard deviations.
        """
        size = _size(shape)
        unit = (
            (self.uniform((2, size)).view(np.uint64) >> np.uint64(11)).astype(np.float64) + 0.5
        ) * 2.0**-53
        normal = np.sqrt(-2.0 * np.log(unit[0])) * np.cos(2.0 * np.pi * unit[1])
        rounded: NDArray[np.int64] = np.rint(normal * deviation).astype(np.int64)
        return rounded.reshape(shape)


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))
