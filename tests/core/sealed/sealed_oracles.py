"""Slow and obvious versions of what the sealed primitives compute, and reproducible randomness."""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


class FixedRandomness:
    """Bytes that look random and are the same every time; its calls are counted."""

    def __init__(self, name="tests"):
        self.name = name
        self.calls = 0

    def __call__(self, size):
        self.calls += 1
        return hashlib.shake_256(f"{self.name} {self.calls}".encode()).digest(size)


def negacyclic_product(a, b):
    """Multiply modulo Y^4096 + 1 and 2^64, one shifted and signed copy of ``a`` per coefficient of ``b``."""
    total = np.zeros(4096, dtype=np.int64)
    copy = np.array(a, dtype=np.int64)
    for factor in np.asarray(b, dtype=np.int64):
        total += factor * copy
        copy = np.concatenate([-copy[-1:], copy[:-1]])
    return total


def wrap(value):
    """Return a Python integer modulo 2^64 as a signed one."""
    return (int(value) + 2**63) % 2**64 - 2**63


def transposed_product(matrix, words):
    """Compute X^T words modulo 2^64 in Python integers."""
    return np.array(
        [wrap(sum(int(x) * int(w) for x, w in zip(column, words, strict=True))) for column in matrix.T],
        dtype=np.int64,
    )


def one_hot(codes, columns):
    """Spell out a one-hot matrix."""
    matrix = np.zeros((len(codes), columns), dtype=np.int64)
    for row, row_codes in enumerate(codes):
        for code in row_codes:
            matrix[row, code] = 1
    return matrix


def pad(key, label):
    """Compute one row's pad from the formula, one block at a time."""
    permutation_key = hashlib.sha256(b"fedshare sealed column v1 permutation").digest()[:16]
    whitened = bytes(k ^ w for k, w in zip(key, hashlib.sha256(label).digest()[:16], strict=True))
    permuted = Cipher(algorithms.AES(permutation_key), modes.ECB()).encryptor().update(whitened)  # noqa: S305
    return int.from_bytes(
        bytes(p ^ w for p, w in zip(permuted, whitened, strict=True))[:8], "little", signed=True
    )
