"""Print the block sizes behind the security table of ``docs/sealed.md``.

Primal attack (uSVP) on LWE with the geometric series assumption: the smallest block size beta with
``sigma * sqrt(beta) <= delta^(2 beta - d - 1) * volume^(1/d)`` (Alkim, Ducas, Poeppelmann, Schwabe 2016,
section 6.3), the ternary secret scaled up to the error. A hint is one more equation on s whose residual has
deviation ``residual``; after scaling it multiplies the volume by ``norm * sigma_s / residual`` when that is
above one (the approximate hints of Dachman-Soled, Ducas, Gong, Rossi 2020).

    python tests/vectors/sealed/core_svp.py
"""

import math

SIGMA = math.sqrt(21 / 2)
SIGMA_SECRET = math.sqrt(2 / 3)
# The norm of 4096 coefficients uniform on the integers of c cut bytes.
CUT_NORM = {cut: 64 * 2.0 ** (8 * cut) / math.sqrt(12) for cut in (2, 4)}


def delta(beta):
    """Return the root Hermite factor of BKZ-beta."""
    return ((math.pi * beta) ** (1 / beta) * beta / (2 * math.pi * math.e)) ** (1 / (2 * (beta - 1)))


def succeeds(beta, dimension, log_volume):
    """Say whether BKZ-beta finds the secret."""
    gain = (2 * beta - dimension - 1) * math.log2(delta(beta)) + log_volume / dimension
    return math.log2(SIGMA * math.sqrt(beta)) <= gain


def block_size(dimension, log_modulus, hints=0, norm=1.0, residual=1.0):
    """Return the smallest block size over all numbers of samples."""
    gain = hints * max(0.0, math.log2(norm * SIGMA_SECRET / residual))
    found = []
    for samples in range(0, 3 * dimension, 64):
        total = dimension + samples + 1
        log_volume = samples * log_modulus + dimension * math.log2(SIGMA / SIGMA_SECRET) + gain
        low, high = 50, total
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if succeeds(middle, total, log_volume) else (middle + 1, high)
        if succeeds(low, total, log_volume):
            found.append(low)
    return min(found)


if __name__ == "__main__":
    cases = {
        "N = 2560, q = 2^64": (2560, 64),
        "N = 4096, q = 2^109": (4096, 109),
        "N = 4096, q = 2^64": (4096, 64),
        "4 bytes cut, no flood, 1500 hints, residual 2^8": (4096, 64, 1500, CUT_NORM[4], 2.0**8),
        "2 bytes cut, no flood, 1500 hints, residual 2^8": (4096, 64, 1500, CUT_NORM[2], 2.0**8),
        "2 bytes cut, flood 2^24, 1500 hints (as built)": (4096, 64, 1500, CUT_NORM[2], 2.0**24),
    }
    for name, case in cases.items():
        beta = block_size(*case)
        print(f"{name}: beta {beta}, 2^{0.292 * beta:.0f}")
