"""Quantisation against numbers worked out by hand, and what must hold for every vector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.products import NODATA, dequantize, quantize
from pipelines.products.quantise import dequantisation_table, quantisation_facts

# x, and round(sign(x) * sqrt(|x|) * 127.5) worked out by hand: sqrt(0.25) = 0.5, 0.5 * 127.5 = 63.75, and so on.
GOLDEN = [
    (0.0, 0),
    (1.0, 127),  # 127.5 rounds to 128 and is clipped
    (-1.0, -127),
    (0.25, 64),
    (-0.25, -64),
    (0.01, 13),  # 12.75
    (-0.04, -26),  # -25.5 rounds half to even
    (0.09, 38),  # 38.25
    (1e-6, 0),  # 0.1275
    (0.0001, 1),  # 1.275
    (0.5, 90),  # 90.156...
    (0.125, 45),  # 45.078...
    (2.0, 127),
]


def test_golden_codes():
    values = np.array([[value for value, _ in GOLDEN]])
    assert quantize(values).tolist() == [[code for _, code in GOLDEN]]


def test_golden_decoding():
    codes = np.array([[127, -127, 64, 1, 0, -26]], np.int8)
    hand = [(127 / 127.5) ** 2, -((127 / 127.5) ** 2), (64 / 127.5) ** 2, (1 / 127.5) ** 2, 0.0, -((26 / 127.5) ** 2)]
    np.testing.assert_array_equal(dequantize(codes), np.array([hand], np.float32))
    assert hand[0] == pytest.approx(0.99217224, abs=1e-8)


def test_every_code_comes_back_to_itself():
    codes = np.arange(-127, 128, dtype=np.int8)[None]
    np.testing.assert_array_equal(quantize(dequantize(codes)), codes)


unit = hnp.arrays(np.float32, (3, 64), elements=st.floats(-1, 1, width=32)).filter(
    lambda v: (np.linalg.norm(v, axis=1) > 0.1).all()
)


@settings(max_examples=50, deadline=None)
@given(unit)
def test_requantising_changes_nothing_and_the_direction_is_kept(vectors):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = quantize(vectors)
    np.testing.assert_array_equal(quantize(dequantize(codes)), codes)
    assert codes.min() >= -127
    decoded = dequantize(codes, renormalise=True)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6)
    # Half a step of the code is at most 1/255 in the root, so 2 |x|^(1/2) / 255 + 1/255^2 in x, plus the clipping at 1.
    assert np.abs(dequantize(codes) - vectors).max() < 2 / 255 + 1 / 255**2 + 1e-6
    assert (decoded * vectors).sum(axis=1).min() > 0.998


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nodata_is_in_all_bands_or_none(bad):
    vectors = np.full((2, 2, 64), 0.125)
    vectors[0, 1, 17] = bad
    codes = quantize(vectors)
    assert (codes[0, 1] == NODATA).all()
    assert (codes == NODATA).sum() == 64
    assert np.isnan(dequantize(codes)[0, 1]).all()
    assert np.isfinite(dequantize(codes)).sum() == 3 * 64


def test_masked_and_empty_vectors_are_nodata():
    vectors = np.full((3, 64), 0.125)
    vectors[2] = 0
    assert (quantize(vectors, np.array([True, False, True])) == NODATA).all(axis=1).tolist() == [False, True, True]


def test_bands_first():
    vectors = np.random.default_rng(0).normal(size=(4, 5, 64))
    first = quantize(np.moveaxis(vectors, -1, 0), np.ones((4, 5), bool), axis=0)
    np.testing.assert_array_equal(np.moveaxis(first, 0, -1), quantize(vectors))


def test_torch_gives_the_same_numbers():
    vectors = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32) / 8
    vectors[3, 5] = np.nan
    codes = quantize(torch.from_numpy(vectors))
    assert codes.dtype == torch.int8
    np.testing.assert_array_equal(codes.numpy(), quantize(vectors))
    np.testing.assert_array_equal(dequantize(codes).numpy(), dequantize(quantize(vectors)))


def test_published_table_decodes_without_this_code():
    facts = quantisation_facts()
    table = np.array([np.nan if value is None else value for value in facts["lookup_table"]])
    np.testing.assert_array_equal(table, dequantisation_table())
    codes = np.arange(-127, 128)
    formula = np.sign(codes) * (np.abs(codes) / facts["scale"]) ** facts["power"]
    np.testing.assert_array_equal(table[codes - facts["first_code"]], formula)
    # The levels are float64 rounded once; taking the power in float32 gets most of them wrong in the last bit.
    in_float32 = np.sign(codes).astype("f4") * (np.abs(codes).astype("f4") / np.float32(127.5)) ** np.float32(2)
    assert (in_float32 != dequantize(codes.astype(np.int8)[None])[0]).sum() > 50
