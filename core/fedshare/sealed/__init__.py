"""The sealed primitives: arithmetic between institutions that shows each only what it is for.

Oblivious keys (:mod:`.oblivious`) give rows keys that a bank obtains for its own customers only; a sealed
column (:mod:`.column`) carries one number per row from the holders to those keys, and opens as a sum; a
sealed product (:mod:`.product`, offline part :mod:`.offline`) carries a bank's private vector d to a holder
as X^T d; a masked sum (:mod:`.masked_sum`, :mod:`.recovery`) adds up vectors of parties of which nobody sees any.
All are pure: randomness and keys are handed in, bytes and arrays come out. ``docs/sealed.md`` has
constructions, parameters and the security argument.
"""

from fedshare.sealed.column import Sealer, open_sum, pair_row_keys, seal
from fedshare.sealed.matrix import MAX_COLUMNS, Dense, OneHot, PrivateMatrix, PublicMatrix, hint
from fedshare.sealed.oblivious import Blinds, OprfKey, RowKeys, blind, derive, evaluate, finalize
from fedshare.sealed.offline import OfferedSecret, answer, answer_bytes
from fedshare.sealed.product import (
    HolderMask,
    PreparedSecret,
    decode,
    flood_bits,
    noise_deviation,
    recover,
    scale_bits,
)
from fedshare.sealed.randomness import Randomness, Stream

__all__ = [
    "MAX_COLUMNS",
    "Blinds",
    "Dense",
    "HolderMask",
    "OfferedSecret",
    "OneHot",
    "OprfKey",
    "PreparedSecret",
    "PrivateMatrix",
    "PublicMatrix",
    "Randomness",
    "RowKeys",
    "Sealer",
    "Stream",
    "answer",
    "answer_bytes",
    "blind",
    "decode",
    "derive",
    "evaluate",
    "finalize",
    "flood_bits",
    "hint",
    "noise_deviation",
    "open_sum",
    "pair_row_keys",
    "recover",
    "scale_bits",
    "seal",
]
