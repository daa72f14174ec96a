"""The join of frames with one row per customer, against pandas' own checked merge."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.frames import join_customers

KEYS = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(left=KEYS, right=KEYS)
@pytest.mark.parametrize("how", ["inner", "left"])
def test_is_the_checked_merge_of_pandas(how: str, left: list[str], right: list[str]) -> None:
    one = pd.DataFrame({"customer_key": pd.Series(left, dtype="str"), "x": range(len(left))})
    two = pd.DataFrame(
        {
            "customer_key": pd.Series(right, dtype="str"),
            "y": [0.5 * n for n in range(len(right))],
            "z": pd.Series([f"{key}!" for key in right], dtype="object"),
        }
    )
    expected = one.merge(two, on="customer_key", how=how, validate="one_to_one")
    found = join_customers(one, two, how=how)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_refuses_a_customer_who_appears_twice(side: str) -> None:
    once = pd.DataFrame({"customer_key": ["a", "b"], "x": [1, 2]})
    twice = pd.DataFrame({"customer_key": ["a", "a"], "y": [1, 2]})
    frames = (twice, once) if side == "left" else (once, twice)
    with pytest.raises(ValueError, match=f"1 rows of the {side} frame repeat"):
        join_customers(*frames)


@pytest.mark.parametrize("keys", [["a", "b", "a"], ["a", "b", "b"], [None, None], ["b", "a", "b"]])
def test_refuses_who_appears_twice_wherever(keys: list[str | None]) -> None:
    twice = pd.DataFrame({"customer_key": pd.Series(keys, dtype="object"), "y": range(len(keys))})
    with pytest.raises(ValueError, match="1 rows of the right frame repeat"):
        join_customers(pd.DataFrame({"customer_key": ["a"], "x": [1]}), twice)


def test_refuses_columns_of_the_same_name() -> None:
    frame = pd.DataFrame({"customer_key": ["a"], "x": [1]})
    with pytest.raises(ValueError, match="both frames have the columns x"):
        join_customers(frame, frame)
