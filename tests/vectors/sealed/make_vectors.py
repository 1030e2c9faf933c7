"""Write our own known answers, ``column.json`` and ``product.json``, beside this script.

The inputs are small and fixed; all randomness is SHAKE-256 of a name and a counter, as in
``tests/core/sealed/sealed_oracles.py``. Run from the repository root after a deliberate change of format:

    python tests/vectors/sealed/make_vectors.py
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "core" / "sealed"))

from sealed_oracles import FixedRandomness  # noqa: E402

from fedshare.sealed import (  # noqa: E402
    OfferedSecret,
    OneHot,
    PublicMatrix,
    answer,
    hint,
    pair_row_keys,
    recover,
    scale_bits,
    seal,
)


def column():
    identifiers = ["91110000000000000A", "91110000000000001B", "91110000000000002C"]
    pad_keys = np.frombuffer(FixedRandomness("pad keys")(48), dtype=np.uint8).reshape(3, 16)
    pair_secret = FixedRandomness("pair secret")(32)
    pair_keys = pair_row_keys(pair_secret, [name.encode() for name in identifiers])
    values = [1, -1, 2**40]
    return {
        "source": "make_vectors.py",
        "identifiers": identifiers,
        "pad_keys": pad_keys.tobytes().hex(),
        "pair_secret": pair_secret.hex(),
        "pair_row_keys": pair_keys.tobytes().hex(),
        "sign": -1,
        "label": "a label",
        "values": values,
        "sealed": seal(np.array(values, dtype=np.int64), pad_keys, [(-1, pair_keys)], b"a label").tolist(),
    }


def product():
    codes = np.array([[0, 2], [1, 3], [1, 4], [0, 2], [1, 2]], dtype=np.int32)
    d = [0.5, -0.25, 0.0, 1.0, -0.75]
    ring_seed = hashlib.sha256(b"ring seed").digest()
    public, private = PublicMatrix(ring_seed, 5), OneHot(codes, 5)
    bits = scale_bits(5, 1, 1.0)
    columns = hint(public, private)
    secret, offer = OfferedSecret.create(FixedRandomness("bank offers"))
    mask, answered = answer(columns, offer, FixedRandomness("holder answers"))
    ciphertext, share = secret.accept(answered).encrypt(
        public, np.array(d), bits, FixedRandomness("bank encrypts")
    )
    return {
        "source": "make_vectors.py",
        "codes": codes.tolist(),
        "columns": 5,
        "d": d,
        "ring_seed": ring_seed.hex(),
        "scale_bits": bits,
        "hint_sha256": hashlib.sha256(columns.tobytes()).hexdigest(),
        "offer_sha256": hashlib.sha256(offer).hexdigest(),
        "answer_sha256": hashlib.sha256(answered).hexdigest(),
        "ciphertext": ciphertext.tolist(),
        "share": share.tolist(),
        "recovered": recover(private, ciphertext, share, mask).tolist(),
    }


if __name__ == "__main__":
    for name, make in (("column", column), ("product", product)):
        (HERE / f"{name}.json").write_text(json.dumps(make(), indent=2) + "\n")
