"""Joins of frames that have one row per customer.

What belongs here: the one join that daily frames need, checked and cheap, and looking keys up. What
does not: what is joined, and why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

KEY = "customer_key"


def join_customers(
    left: pd.DataFrame, right: pd.DataFrame, *, how: Literal["inner", "left"] = "inner"
) -> pd.DataFrame:
    """Return `left` with the columns of `right` beside it, in the order of `left`.

    Each holds a customer at most once. With `inner`, customers of `left` that `right` lacks are
    dropped; with `left` they get missing values.

    As `left.merge(right, on=KEY, validate="one_to_one")`, whose check makes an index of every key:
    15 ms for 20,000 customers, where looking the keys up in Arrow takes 2 ms; a day has ten joins.

    Raises:
        ValueError: a customer appears twice, or both frames have a column of the same name.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    shared = sorted(set(left.columns) & set(right.columns) - {KEY})
    if shared:
        raise ValueError(f"both frames have the columns {', '.join(shared)}")
    keys = [pa.array(frame[KEY], pa.string()) for frame in (left, right)]
    for side, found in zip(("left", "right"), keys, strict=True):
        if not found.null_count and pc.all(pc.less(found[:-1], found[1:])).as_py():
            continue  # most frames are sorted by customer, which shows in a tenth of the time
        again = len(found) - pc.count_distinct(found, mode="all").as_py()
        if again:
            raise ValueError(f"{again} rows of the {side} frame repeat a {KEY}")
    places = pc.fill_null(pc.index_in(keys[0], value_set=keys[1]), -1)
    places = places.to_numpy(zero_copy_only=False).astype(np.int64)
    right = right.drop(columns=KEY).reset_index(drop=True)
    if (places >= 0).all():
        left, right = left.reset_index(drop=True), right.take(places)
    elif how == "inner":
        left, right = left[places >= 0].reset_index(drop=True), right.take(places[places >= 0])
    else:
        left, right = left.reset_index(drop=True), right.reindex(places)
    return pd.concat([left, right.reset_index(drop=True)], axis=1)


def is_among(keys: pd.Series, wanted: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Return which of `keys` are among `wanted`, in the order of `keys`.

    As `keys.isin(wanted)`, which on strings of Arrow makes an object of every one of them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    given = wanted if isinstance(wanted, pd.Series) else list(wanted)
    found = pc.is_in(pa.array(keys, pa.string()), value_set=pa.array(given, pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)
