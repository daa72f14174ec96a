"""How good an expected amount is: its level, its order, its interval. Ties are handled.

Belongs here: pure functions of what came and what was expected, one entry a customer and day. Does
not belong here: probabilities (ml.metrics), which rows are measured (ml.value_training).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[np.float64]


def aggregate_bias(actual: Array, expected: Array) -> float:
    """Return sum(expected) / sum(actual) - 1: +0.1 promises a tenth too much; NaN if none came."""
    total = float(np.sum(actual))
    return float(np.sum(expected)) / total - 1 if total > 0 else float("nan")


def deviances(actual: Array, expected: Array, power: float) -> Array:
    """Return the unit Tweedie deviance of each row; its mean is least at the true mean.

    power 1 for counts (Poisson), 1.5 for amounts, of which many are zero and a few very large: the
    variance of an amount rises with its mean to that power (Jorgensen 1987).
    """
    y = np.asarray(actual, "float64")
    mu = np.maximum(np.asarray(expected, "float64"), 1e-9)
    if power == 1:
        return 2 * (np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / mu), 0.0) - y + mu)
    if not 1 < power < 2:
        raise ValueError(f"the power must lie within [1, 2), got {power}")
    return 2 * (
        np.maximum(y, 0) ** (2 - power) / ((1 - power) * (2 - power))
        - y * mu ** (1 - power) / (1 - power)
        + mu ** (2 - power) / (2 - power)
    )


def normalised_gini(actual: Array, expected: Array) -> float:
    """Return the Gini coefficient of the order by `expected`, over that of the perfect order.

    1: customers are in the order of what they brought; 0: the order is random. Equal expectations
    count as in random order, so no row order shows. NaN where nothing came, or the same of all.
    """
    best = _gini(actual, actual)
    return _gini(actual, expected) / best if best > 0 else float("nan")


def _gini(actual: Array, by: Array) -> float:
    """Twice the area between the curve of cumulative gains, largest first, and the diagonal."""
    if not len(actual) or np.sum(actual) <= 0:
        return float("nan")
    _, group = np.unique(-np.asarray(by, "float64"), return_inverse=True)
    sizes = np.bincount(group)
    gains = np.concatenate([[0.0], np.cumsum(np.bincount(group, weights=actual))])
    area = (sizes * (gains[1:] + gains[:-1]) / 2).sum() / (len(actual) * gains[-1])
    return float(2 * area - 1)


def is_covered(actual: Array, low: Array, high: Array) -> npt.NDArray[np.bool_]:
    """Return whether low <= actual <= high, of each row."""
    return (actual >= low - 1e-9) & (actual <= high + 1e-9)


def deciles(actual: Array, expected: Array) -> pd.DataFrame:
    """Return mean expected and mean actual of ten groups of equal size; 1 expects the most."""
    order = np.argsort(-np.asarray(expected, "float64"), kind="stable")
    parts = [part for part in np.array_split(order, 10) if len(part)]
    return pd.DataFrame(
        {
            "decile": np.arange(1, len(parts) + 1),
            "customer_count": [len(part) for part in parts],
            "expected_mean": [float(np.mean(expected[part])) for part in parts],
            "actual_mean": [float(np.mean(actual[part])) for part in parts],
        }
    )


def resampled(
    measure: Callable[..., float],
    columns: tuple[Array, ...],
    customer_key: pd.Series,
    n_resamples: int,
    seed: int,
) -> Array:
    """Return `measure(*columns)` over bootstrap samples of customers, each with all of its rows.

    Rows of one customer on several days are nearly copies: drawn one by one they would make the
    interval too short.
    """
    random = np.random.default_rng(seed)
    codes, customers = pd.factorize(np.asarray(customer_key, dtype=object), sort=True)
    rows_of = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[rows_of], np.arange(len(customers) + 1))
    found: list[Any] = []
    for _ in range(n_resamples):
        drawn = random.integers(0, len(customers), len(customers))
        lengths = starts[drawn + 1] - starts[drawn]
        first = np.repeat(starts[drawn] - np.cumsum(lengths) + lengths, lengths)
        rows = rows_of[first + np.arange(lengths.sum())]
        found.append(measure(*(column[rows] for column in columns)))
    return np.asarray(found, dtype="float64")
