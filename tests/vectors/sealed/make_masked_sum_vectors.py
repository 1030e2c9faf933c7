"""Write ``masked_sum.json`` and ``shamir.json`` by plain integer arithmetic, without the code they test.

python tests/vectors/sealed/make_masked_sum_vectors.py
"""

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HERE = Path(__file__).parent
PRIME = 2**256 + 297


def draw(name):
    return hashlib.sha256(name.encode()).digest()


def masked_sum():
    values, bits, parties = [0.5, -1.25, 1000.0625], 24, 3
    seeds = [(1, draw("with the second party")), (-1, draw("with the third party"))]
    masked = []
    for place, value in enumerate(values):
        word = int(value * 2**bits)  # exact: the values are multiples of 2^-4
        for sign, seed in seeds:
            keystream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(64))
            word += sign * int.from_bytes(keystream[8 * place : 8 * place + 8], "little")
        masked.append(str((word + 2**63) % 2**64 - 2**63))
    return {
        "source": "make_masked_sum_vectors.py",
        "values": values,
        "bits": bits,
        "parties": parties,
        "seeds": [(sign, seed.hex()) for sign, seed in seeds],
        "masked": masked,
    }


def shares(secret, needed, xs):
    """Evaluate secret + c_1 x + c_2 x^2 + ... at every x."""
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(draw(f"coefficient {power}"), "big") for power in range(1, needed)]
    values = (sum(c * x**power for power, c in enumerate(coefficients)) % PRIME for x in xs)
    return {str(x): value.to_bytes(33, "big").hex() for x, value in zip(xs, values, strict=True)}


def shamir():
    secret, largest = draw("secret"), bytes([255]) * 32
    good = [
        {"secret": each.hex(), "needed": needed, "shares": shares(each, needed, xs)}
        for each, needed, xs in (
            (secret, 1, [4]),
            (secret, 3, [1, 2, 3]),
            (secret, 3, [2, 5, 9]),
            (secret, 3, [1, 2, 3, 4, 5]),
            (largest, 4, [1, 3, 5, 7]),
            (bytes(32), 2, [1, 2]),
        )
    ]
    three = shares(secret, 3, [1, 2, 3, 4])
    mixed = {**three, "4": shares(largest, 3, [4])["4"]}
    beyond = {str(x): (2**256 + 1).to_bytes(33, "big").hex() for x in (1, 2)}
    bad = [
        {"why": "too few", "needed": 3, "shares": shares(secret, 3, [1, 2])},
        {"why": "contradictory", "needed": 3, "shares": mixed},
        {"why": "short", "needed": 1, "shares": {"1": "00" * 32}},
        {"why": "not below the prime", "needed": 1, "shares": {"1": PRIME.to_bytes(33, "big").hex()}},
        {"why": "of no 32-byte secret", "needed": 2, "shares": beyond},
    ]
    return {"source": "make_masked_sum_vectors.py", "cases": good, "bad": bad}


if __name__ == "__main__":
    for name, make in (("masked_sum", masked_sum), ("shamir", shamir)):
        (HERE / f"{name}.json").write_text(json.dumps(make(), indent=2) + "\n")
