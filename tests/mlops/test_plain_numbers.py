"""What counts as a number, and what as a whole one."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from mlops.plain_numbers import plain_number, whole_number

KINDS = [np.int8, np.uint64, np.float16, np.float32, np.float64, np.longdouble, np.array]


@pytest.mark.parametrize(
    "value",
    [
        *(kind(3) for kind in KINDS),
        torch.tensor(3),
        torch.tensor(3.0, requires_grad=True),
        torch.tensor(3.0, dtype=torch.bfloat16),
        Decimal(3),
        Fraction(3),
    ],
    ids=repr,
)
def test_numbers_of_any_kind_are_numbers(value):
    number = plain_number(value)
    assert number == 3
    assert type(number) in (int, float)


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        np.array(True),
        torch.tensor(True),
        "3",
        None,
        np.array([3]),
        torch.ones(1),
        3j,
        np.timedelta64(3, "h"),
        np.datetime64("2024"),
        np.array(np.timedelta64(3, "ns")),
        Decimal("sNaN"),
        Fraction(10**400),
        torch.ones((), device="meta"),
        np,
        np.float32,
    ],
    ids=repr,
)
def test_other_values_are_no_numbers(value):
    assert plain_number(value) is None


@pytest.mark.parametrize("value", [24, 24.0, "24", np.int64(24), np.float32(24), torch.tensor(24)])
def test_a_whole_number_may_be_written_in_several_ways(value):
    assert whole_number(value) == 24


@pytest.mark.parametrize(
    "value", [24.5, "24.0", " 24", "-3", "", "2_4", "²", "9" * 19, np.nan, np.inf, True, None]
)
def test_what_is_not_clearly_whole_is_none(value):
    assert whole_number(value) is None
