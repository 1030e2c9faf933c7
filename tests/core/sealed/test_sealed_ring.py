import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed_oracles import negacyclic_product

from fedshare.sealed.randomness import Stream
from fedshare.sealed.ring import (
    TERNARY_WIDTH,
    add_up_limbs,
    exact_bound,
    inverse,
    limb_spectra,
    multiply,
    negate_exponents,
    spectrum,
)

seeds = st.binary(min_size=32, max_size=32)
few = settings(max_examples=10, deadline=None)

ALTERNATING = np.where(np.arange(4096) % 2, -1, 1)
SIGNS = {
    "ones": np.ones(4096, dtype=np.int64),
    "minus ones": -np.ones(4096, dtype=np.int64),
    "alternating": ALTERNATING,
}
# Every limb at its extreme: 2^21 - 1 or -2^21 in each of the 22-bit limbs, and the ends of int64.
EXTREMES = [
    2**63 - 1,
    -(2**63),
    sum((2**21 - 1) << (22 * k) for k in range(2)) + ((2**19 - 1) << 44),
    -1 << 21,
    -1,
]


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("value", EXTREMES)
def test_a_product_of_worst_cases_is_exact(value, signs):
    large = np.full(4096, value, dtype=np.int64) * ALTERNATING
    product = multiply(limb_spectra(large, TERNARY_WIDTH), TERNARY_WIDTH, spectrum(SIGNS[signs]))
    assert np.array_equal(product, negacyclic_product(large, SIGNS[signs]))


@given(seeds)
@few
def test_products_with_ternary_elements_are_exact(seed):
    stream = Stream(seed)
    large, small = stream.uniform((2, 4096)), stream.ternary((4096,))
    products = multiply(limb_spectra(large, TERNARY_WIDTH), TERNARY_WIDTH, spectrum(small))
    for element, product in zip(large, products, strict=True):
        assert np.array_equal(product, negacyclic_product(element, small))


@pytest.mark.parametrize("width", [22, 16, 8])
def test_sums_of_products_are_exact_up_to_the_stated_bound(width):
    # g products at once, all coefficients at the largest limb, signs aligned: the largest sum there can be.
    bound = exact_bound(width)
    group = min(bound, 4)
    large = np.full(4096, -(1 << (width - 1)), dtype=np.int64)
    small = np.full(4096, bound // group, dtype=np.int64)
    sums = group * limb_spectra(large, width) * spectrum(small)
    assert np.array_equal(add_up_limbs(inverse(sums), width), group * negacyclic_product(large, small))


@pytest.mark.parametrize("width", [22, 16, 8])
def test_limbs_add_up_to_the_element(width):
    element = np.array([*EXTREMES, *Stream(bytes(32)).uniform((4096 - len(EXTREMES),))], dtype=np.int64)
    assert np.array_equal(add_up_limbs(inverse(limb_spectra(element, width)), width), element)


def test_multiplying_by_y_to_the_n_changes_the_sign():
    element = Stream(bytes(32)).uniform((4096,))
    y = np.zeros(4096)
    y[4095] = 1
    product = multiply(limb_spectra(element, TERNARY_WIDTH), TERNARY_WIDTH, spectrum(y))
    assert np.array_equal(product, np.concatenate([-element[1:], element[:1]]))


@given(seeds)
@few
def test_the_constant_of_a_turned_product_is_the_inner_product(seed):
    stream = Stream(seed)
    a, b = stream.uniform((4096,)), stream.ternary((4096,)).astype(np.int64)
    assert negacyclic_product(negate_exponents(a), b)[0] == a @ b
    assert np.array_equal(negate_exponents(negate_exponents(a)), a)
