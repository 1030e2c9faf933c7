"""Enterprise identifiers in one spelling, so that the same enterprise is the same bytes at every institution.

Two kinds exist. ``uscc`` is the unified social credit code of GB 32100-2015: 18 characters of a 31-letter
alphabet, the last a check digit. ``opaque`` is any text the parties agree on. Both are stripped and brought
from full-width to half-width characters (Unicode NFKC); a code is also brought to upper case. No error ever
shows an identifier: rows are named by number.

    >>> codes = ["91350100m000100y43 "]
    >>> normalise_identifiers(codes, "uscc", check_digits=True, party="bank", source="loans.csv")
    [b'91350100M000100Y43']
"""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedshare.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["IdentifierKind", "check_digit", "normalise_identifiers"]

IdentifierKind = Literal["uscc", "opaque"]

# GB 32100-2015, code characters: digits and capital letters without I, O, S, V and Z.
_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
# GB 32100-2015, weights of positions i = 1 to 17: 3^(i-1) mod 31.
_WEIGHTS = np.array([pow(3, position, 31) for position in range(17)], dtype=np.int64)
_LENGTH = 18

_VALUE_OF_CHARACTER = np.full(128, -1, dtype=np.int64)
_VALUE_OF_CHARACTER[[ord(character) for character in _ALPHABET]] = np.arange(len(_ALPHABET))


def check_digit(first_characters: str) -> str:
    """Return the 18th character of the code that begins with these 17.

    Source: GB 32100-2015, check character (modulus 31).

    Args:
        first_characters: 17 characters of the code alphabet, upper case.

    Raises:
        DataError: the length is not 17 or a character is outside the alphabet.
    """
    if len(first_characters) != _LENGTH - 1 or not set(first_characters) <= set(_ALPHABET):
        raise DataError("expected the first 17 characters of a unified social credit code, upper case")
    values = _VALUE_OF_CHARACTER[[ord(character) for character in first_characters]]
    return _ALPHABET[-int(values @ _WEIGHTS) % 31]


def normalise_identifiers(
    values: Sequence[Any] | NDArray[Any],
    kind: IdentifierKind,
    *,
    check_digits: bool,
    party: str,
    source: str,
    field: str = "",
) -> list[bytes]:
    """Return every identifier in its one spelling, as UTF-8, in the order given.

    Args:
        values: text or whole numbers, one per row; None, NaN and blank text count as missing.
        kind: ``uscc`` or ``opaque``.
        check_digits: refuse codes whose check digit is wrong; no meaning for ``opaque``.
        party: who holds the rows, for the error.
        source: the file or table, for the error.
        field: the identifier column, for the error.

    Raises:
        DataError: an identifier is missing, malformed or there twice; ``row`` is its 1-based number.
    """

    def refuse(row: int, message: str) -> DataError:
        return DataError(message, party=party, source=source, row=row + 1, field=field)

    texts = [_text(value) for value in values]
    for row, text in enumerate(texts):
        if not text:
            raise refuse(row, "the identifier is missing; give every row one or leave the row out")
    if kind == "uscc":
        texts = [text.upper() for text in texts]
        _verify_codes(texts, check_digits, refuse)
    _verify_unique(texts, refuse)
    return [text.encode() for text in texts]


def _text(value: Any) -> str:  # noqa: ANN401 - a cell of any source
    """Return the cell as stripped half-width text, empty if missing."""
    if value is None:
        return ""
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else repr(float(value))
    text = value if isinstance(value, str) else str(value)
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).strip()


def _verify_codes(texts: list[str], check_digits: bool, refuse: _Refuse) -> None:
    """Raise on the first text that is not a code: for lengths, then characters, then check digits."""
    for row, text in enumerate(texts):
        if len(text) != _LENGTH or not text.isascii():
            raise refuse(
                row,
                f"a unified social credit code has {_LENGTH} characters from 0-9 and A-Y; this one has "
                f"{len(text)}; correct it, or use 'opaque' identifiers in the contract",
            )
    if not texts:
        return
    characters = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8).reshape(-1, _LENGTH)
    codes = _VALUE_OF_CHARACTER[characters]
    foreign = np.flatnonzero((codes < 0).any(axis=1))
    if foreign.size:
        raise refuse(
            int(foreign[0]),
            "a unified social credit code has no letters I, O, S, V or Z and no signs; "
            f"{foreign.size} row(s) have; letters are often mistaken for the digits 1, 0, 5 and 2",
        )
    wrong = np.flatnonzero((codes[:, :-1] @ _WEIGHTS + codes[:, -1]) % 31)
    if check_digits and wrong.size:
        raise refuse(
            int(wrong[0]),
            f"the check digit of the unified social credit code is wrong, as in {wrong.size} row(s); "
            "correct the codes, or set alignment.check_digits to false in the contract to keep them",
        )


def _verify_unique(texts: list[str], refuse: _Refuse) -> None:
    """Raise on the first identifier that stands at an earlier row too."""
    if len(set(texts)) == len(texts):
        return
    first_row: dict[str, int] = {}
    for row, text in enumerate(texts):
        earlier = first_row.setdefault(text, row)
        if earlier != row:
            raise refuse(
                row, f"the identifier already stands at row {earlier + 1}; keep one row per enterprise"
            )


if TYPE_CHECKING:
    from collections.abc import Callable

    _Refuse = Callable[[int, str], DataError]
