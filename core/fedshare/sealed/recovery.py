"""A masked sum that survives the loss of parties: self masks, and secrets shared out by threshold.

For one sum, party u draws a fresh X25519 key s_u and a self-mask seed b_u, announces the public key and gives every
party one share of each secret. Its vector carries the self mask and a mask with every other party. Once the
vectors are in, some parties are *active* (theirs arrived) and the others *lost*; whoever is still there hands
over one share per party: of b_u if u is active, of s_u if u is lost. With a threshold of shares the self masks of the
active and the pairwise masks of the lost come off, and the sum of the active remains.

Nobody ever hands over both shares of one party: a vector that only seemed lost stays under its self mask, one
that counted stays under its pairwise masks. ``threshold`` is high enough that a collector who tells different parties
different things cannot gather a threshold of both, its own shares counted twice.

Source: Bonawitz et al. 2017, section 4 and figure 4; Shamir 1979, "How to share a secret", over the field of
2^256 + 297 elements, the smallest prime above 2^256.

Assumes: every key pair and seed is used for one sum, so that revealing s_u says nothing about another sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedshare.errors import ParameterError, ProtocolError
from fedshare.sealed.randomness import Randomness, fresh_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "SHARE_BYTES",
    "RecoverableMask",
    "join",
    "missing_masks",
    "pair_seed",
    "split",
    "threshold",
    "verify_outcome",
]

SECRET_BYTES = 32
SHARE_BYTES = 33
_PRIME = 2**256 + 297


def threshold(parties: int) -> int:
    """Return how many shares reconstruct a secret: the fewest of which no collector gets enough of both kinds.

    A lying collector holds a share of each kind itself and gets one of either kind from each of the other
    parties - 1; with t > (parties + 1) / 2 these do not suffice for t of both.

    Raises:
        ParameterError: fewer than four parties: with three, all three shares would be needed.
    """
    if parties < 4:
        raise ParameterError(f"expected at least 4 parties for a sum that survives a loss, found {parties}")
    return (parties + 1) // 2 + 1


def split(secret: bytes, count: int, needed: int, randomness: Randomness) -> list[bytes]:
    """Return ``count`` shares of ``secret``, of which any ``needed`` give it back and fewer say nothing.

    Args:
        secret: 32 bytes.
        count: the shares; share i belongs to x = i + 1.
        needed: 1 to ``count``.
        randomness: 64 bytes are drawn per coefficient, so that each is uniform up to 2^-255.

    Raises:
        ParameterError: a number is out of range.
    """
    if len(secret) != SECRET_BYTES or not 1 <= needed <= count:
        raise ParameterError(f"expected a secret of 32 bytes and 1 to {count} shares needed, found {needed}")
    coefficients = [int.from_bytes(secret, "big")]
    for _ in range(needed - 1):
        drawn = randomness(64)
        if len(drawn) != 64:
            raise ParameterError(f"expected 64 random bytes, got {len(drawn)}: use a source like os.urandom")
        coefficients.append(int.from_bytes(drawn, "big") % _PRIME)
    shares = []
    for x in range(1, count + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % _PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def join(shares: Mapping[int, bytes], needed: int) -> bytes:
    """Return the secret that ``shares`` are of, by Lagrange interpolation at zero.

    Args:
        shares: by x, from 1; at least ``needed``, all of which must lie on one polynomial.
        needed: as in ``split``.

    Raises:
        ProtocolError: too few shares, a malformed one, or shares that contradict one another.
    """
    if len(shares) < needed:
        raise ProtocolError(f"expected at least {needed} shares of a lost or self mask, found {len(shares)}")
    points = sorted((x, _field_element(share)) for x, share in shares.items())
    base = points[:needed]
    for x, value in points[needed:]:
        if _interpolate(base, x) != value:
            raise ProtocolError("the shares of one secret contradict one another")
    secret = _interpolate(base, 0)
    if secret >= 2**256:
        raise ProtocolError("the shares are not of any secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def pair_seed(private: bytes, public: bytes, parties: Sequence[str], label: bytes) -> bytes:
    """Return the seed of the masks between two parties in one sum.

    Args:
        private: 32-byte X25519 key of one of them.
        public: of the other.
        parties: the names of both, in any order.
        label: session and sum.

    Raises:
        ProtocolError: ``public`` is a point of small order.
    """
    try:
        agreed = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise ProtocolError("expected an X25519 public key, not a point of small order") from error
    info = b"fedshare recoverable mask v1|" + "|".join(sorted(parties)).encode()
    return HKDF(SHA256(), SECRET_BYTES, label, info).derive(agreed)


@dataclass(frozen=True, slots=True)
class RecoverableMask:
    """The secrets of one party for one sum; never copied, dropped after the sum.

    Attributes:
        public: to announce to every party.
        self_seed: of the self mask, which this party adds.
    """

    public: bytes
    self_seed: bytes = field(repr=False)
    _private: bytes = field(repr=False)

    @classmethod
    def create(cls, randomness: Randomness) -> RecoverableMask:
        """Draw a key and a self-mask seed."""
        private = fresh_seed(randomness)
        public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
        return cls(public, fresh_seed(randomness), private)

    def shares(self, parties: int, randomness: Randomness) -> list[tuple[bytes, bytes]]:
        """Return, for every party in order, its share of the key and its share of the self-mask seed."""
        needed = threshold(parties)
        keys = split(self._private, parties, needed, randomness)
        return list(zip(keys, split(self.self_seed, parties, needed, randomness), strict=True))

    def seed_with(self, peer: str, public: bytes, party: str, label: bytes) -> bytes:
        """Return the seed of the masks with ``peer``, whose announced key is ``public``."""
        return pair_seed(self._private, public, (party, peer), label)

    def __reduce__(self) -> NoReturn:
        raise ParameterError("the secrets of a sum are not copied: they are used once")


def verify_outcome(active: Sequence[str], lost: Sequence[str], parties: Sequence[str]) -> None:
    """Check what a collector says of the parties, before any share is handed over.

    Raises:
        ProtocolError: a party is called both active and lost, or neither, or too few are active: handing over
            shares would uncover a vector.
    """
    both = sorted(set(active) & set(lost))
    if both:
        raise ProtocolError(f"{', '.join(both)} cannot be both active and lost: no share is handed over")
    if sorted([*active, *lost]) != sorted(parties):
        raise ProtocolError("expected every party once as active or as lost")
    if len(active) < threshold(len(parties)):
        raise ProtocolError(
            f"{len(active)} of {len(parties)} parties are active, at least {threshold(len(parties))} must be"
        )


def missing_masks(
    lost: str, private: bytes, publics: Mapping[str, bytes], active: Sequence[str], label: bytes
) -> list[tuple[int, bytes]]:
    """Return sign and seed of the masks that the vector of ``lost`` would have brought, against the active.

    Args:
        lost: whose vector is missing.
        private: its key, from the shares.
        publics: every party's announced key.
        active: whose vectors are in the sum.
        label: session and sum.

    Raises:
        ProtocolError: the key is not the one that ``lost`` announced.
    """
    if X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() != publics[lost]:
        raise ProtocolError(f"the shares are not of the key that {lost} announced")
    return [
        (1 if lost < peer else -1, pair_seed(private, publics[peer], (lost, peer), label)) for peer in active
    ]


def _field_element(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= _PRIME:
        raise ProtocolError(f"expected a share of {SHARE_BYTES} bytes below the field's prime")
    return value


def _interpolate(points: Sequence[tuple[int, int]], at: int) -> int:
    total = 0
    for x, value in points:
        above = below = 1
        for other, _ in points:
            if other != x:
                above = above * (at - other) % _PRIME
                below = below * (x - other) % _PRIME
        total = (total + value * above * pow(below, -1, _PRIME)) % _PRIME
    return total
