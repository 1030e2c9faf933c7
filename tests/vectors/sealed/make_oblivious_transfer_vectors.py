"""Write ``oblivious_transfer.json`` row by row and bit by bit, without the code it tests (the group is libsodium's).

python tests/vectors/sealed/make_oblivious_transfer_vectors.py
"""

import hashlib
import json
from pathlib import Path

import rbcl
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HERE = Path(__file__).parent
BASE = 128
ORDER = 2**252 + 27742317777372353535851937790883648493
ROWS = 11
LABELS = ("first", "second")


def draw(name, size=32):
    return hashlib.shake_256(name.encode()).digest(size)


def scalar(seed):
    """Return RFC 9497 DeriveKeyPair of ``seed`` without info, as the code draws its scalars."""
    dst = b"DeriveKeyPair" + b"OPRFV1-\x00-ristretto255-SHA512"
    message, suffix = seed + b"\x00\x00" + b"\x00", dst + bytes([len(dst)])
    first = hashlib.sha512(bytes(128) + message + b"\x00\x40\x00" + suffix).digest()
    wide = hashlib.sha512(first + b"\x01" + suffix).digest()
    return (int.from_bytes(wide, "little") % ORDER).to_bytes(32, "little")


def bit(data, number):
    return data[number // 8] >> (7 - number % 8) & 1


def keystream(seed, size):
    return Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def permute(block):
    key = hashlib.sha256(b"fedshare oblivious transfer v1 permutation").digest()[:16]
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)  # noqa: S305


def xor(one, two):
    return bytes(a ^ b for a, b in zip(one, two, strict=True))


def hashed(key, label):
    image = permute(key)
    tweak = hashlib.sha256(label.encode()).digest()[:16]
    return int.from_bytes(xor(permute(xor(image, tweak)), image)[:8], "little")


def signed(word):
    return (word + 2**63) % 2**64 - 2**63


def main():
    """Play both parties; every random value comes from ``draw``."""
    bits = [number * number % 3 == 1 for number in range(ROWS)]
    values = [signed(int.from_bytes(draw(f"value {number}", 8), "little")) for number in range(ROWS)]
    spread = draw("sender 1", 16)
    secret = scalar(draw("receiver 1"))
    offer = rbcl.crypto_scalarmult_ristretto255_base(secret)
    columns, points = [], []
    packed = bytes(
        sum(bits[8 * at + place] << (7 - place) for place in range(8) if 8 * at + place < ROWS)
        for at in (0, 1)
    )
    sender_keys, receiver_keys = [0] * ROWS, [0] * ROWS
    for number in range(BASE):
        own = scalar(draw(f"sender {number + 2}"))
        point = rbcl.crypto_scalarmult_ristretto255_base(own)
        if bit(spread, number):
            point = rbcl.crypto_core_ristretto255_add(point, offer)
        points.append(point)
        zero = rbcl.crypto_scalarmult_ristretto255(secret, point)
        one = rbcl.crypto_core_ristretto255_sub(zero, rbcl.crypto_scalarmult_ristretto255(secret, offer))
        seeds = [
            hashlib.sha256(b"fedshare base transfer v1|" + bytes([number]) + offer + point + shared).digest()
            for shared in (zero, one)
        ]
        streams = [keystream(seed, len(packed)) for seed in seeds]
        columns.append(xor(xor(*streams), packed))
        seen = streams[bit(spread, number)]
        seen = xor(seen, columns[-1]) if bit(spread, number) else seen
        for row in range(ROWS):
            receiver_keys[row] = receiver_keys[row] << 1 | bit(streams[0], row)
            sender_keys[row] = sender_keys[row] << 1 | bit(seen, row)
    for row in range(ROWS):
        assert sender_keys[row] == receiver_keys[row] ^ bits[row] * int.from_bytes(spread, "big")
    products = []
    for label in LABELS:
        message, mine, yours = [], [], []
        for row in range(ROWS):
            key = sender_keys[row].to_bytes(16, "big")
            share = hashed(key, label)
            message.append(signed(share - hashed(xor(key, spread), label) + values[row]))
            mine.append(signed(share))
            found = hashed(receiver_keys[row].to_bytes(16, "big"), label)
            yours.append(signed(-(found + bits[row] * message[row])))
            assert signed(mine[row] + yours[row]) == signed(-bits[row] * values[row])
        products.append({"label": label, "message": message, "sender": mine, "receiver": yours})
    document = {
        "source": "make_oblivious_transfer_vectors.py",
        "randomness": "the n-th call of a party draws SHAKE-256 of its name, a space and n",
        "bits": bits,
        "values": values,
        "offer": offer.hex(),
        "points": hashlib.sha256(b"".join(points)).hexdigest(),
        "columns": hashlib.sha256(b"".join(columns)).hexdigest(),
        "products": products,
    }
    (HERE / "oblivious_transfer.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
