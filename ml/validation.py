"""Time as the split: rolling origins, deterministic row samples, and the bootstrap by customer.

Belongs here: which snapshots may teach, calibrate and test, and how sure a difference is.
Does not belong here: fitting (ml.training) and formulas (ml.metrics).

All dates are shop days. A label of snapshot S matures at the end of S + horizon. A model that is to
be tested as of T may therefore use a snapshot S only if S + horizon <= T: the horizon is the gap.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from math import exp, factorial

import numpy as np
import pandas as pd

from ml.metrics import weighted_ranking


@dataclass(frozen=True)
class Split:
    """Earlier and later snapshots whose labels had matured, and the one that is predicted.

    Churn is learnt from all of them (`matured`), and there must be both, so that a model has seen
    time pass; purchases of a window are learnt from the earlier ones and calibrated on the later.

    For the refit, `test` is the day as of which it is done: nothing is tested there.
    """

    earlier: tuple[date, ...]
    later: tuple[date, ...]
    test: date

    @property
    def matured(self) -> tuple[date, ...]:
        """All snapshots whose labels had matured by the test, ascending."""
        return self.earlier + self.later


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval (or as said); differences are first minus second."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies wholly on one side of zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def thin(snapshot_dates: Sequence[date], spacing_days: int) -> list[date]:
    """Return the dates, ascending, at least `spacing_days` apart, counted back from the latest.

    Daily snapshots of one customer say nearly the same; thinning keeps recent days, where a live
    shop has them daily, from outweighing the past.
    """
    kept: list[date] = []
    for day in sorted(set(snapshot_dates), reverse=True):
        if not kept or (kept[-1] - day).days >= spacing_days:
            kept.append(day)
    return kept[::-1]


def usual_step(days: Sequence[date], spacing_days: int) -> int:
    """Return the days that most neighbours of ascending `days` lie apart, the fewest of equals.

    `thin` keeps what there is: days published every 14, thinned to 21, stand every 28. With fewer
    than two days there is no step but the one that was asked for.
    """
    steps = Counter((after - day).days for day, after in pairwise(days))
    return min(steps, key=lambda step: (-steps[step], step), default=spacing_days)


def split_at(
    snapshot_dates: Sequence[date],
    known_by: date,
    horizon_days: int,
    *,
    later_days: int = 28,
) -> Split | None:
    """Split the snapshots whose labels matured by `known_by` into earlier and later ones.

    The later are those within `later_days` of the latest matured one. Returns None where that
    leaves no earlier one.
    """
    gap = timedelta(days=horizon_days)
    matured = sorted({day for day in snapshot_dates if day + gap <= known_by})
    if not matured:
        return None
    first_later = matured[-1] - timedelta(days=later_days - 1)
    earlier = tuple(day for day in matured if day < first_later)
    later = tuple(day for day in matured if day >= first_later)
    return Split(earlier, later, known_by) if earlier else None


def rolling_origins(
    snapshot_dates: Sequence[date],
    matured_by: date,
    horizon_days: int,
    n_origins: int = 3,
    *,
    spacing_days: int = 28,
    later_days: int = 28,
) -> list[Split]:
    """Return up to `n_origins` splits, oldest first, each tested on one snapshot out of time.

    Test snapshots are the latest whose labels matured by `matured_by`, at least `spacing_days`
    apart. For each, labels of every earlier and later snapshot had matured by the day of the test
    snapshot. Fewer come back, possibly none, where history is too short.
    """
    gap = timedelta(days=horizon_days)
    testable = [day for day in snapshot_dates if day + gap <= matured_by]
    splits: list[Split] = []
    for test in reversed(thin(testable, spacing_days)):
        split = split_at(snapshot_dates, test, horizon_days, later_days=later_days)
        if split is None or len(splits) == n_origins:
            break
        splits.append(split)
    return splits[::-1]


def uniform_hash(customer_key: pd.Series, salt: str) -> np.ndarray:
    """Return one number in [0, 1) per row that depends on the customer and the salt only."""
    codes, keys = pd.factorize(customer_key, use_na_sentinel=False)
    hashes = np.array([_hash(f"{salt}|{key}") for key in keys], dtype=np.uint64)
    return (hashes >> np.uint64(11)).astype("float64")[codes] * 2.0**-53


def sample_rows(frame: pd.DataFrame, max_rows: int, salt: str) -> pd.DataFrame:
    """Return at most `max_rows` rows of `frame`, chosen by a hash of customer and snapshot.

    Rows rather than whole customers: snapshots of one customer are nearly copies of each other, so
    the same number of rows from more customers teaches more. The choice does not depend on the
    order of rows, and the result is sorted by (snapshot_date, customer_key).
    """
    frame = frame.sort_values(["snapshot_date", "customer_key"], kind="stable")
    if len(frame) <= max_rows:
        return frame.reset_index(drop=True)
    order = np.empty(len(frame))
    for day, positions in frame.groupby("snapshot_date", sort=True).indices.items():
        order[positions] = uniform_hash(frame["customer_key"].iloc[positions], f"{salt}|{day}")
    chosen = np.sort(np.argsort(order, kind="stable")[:max_rows])
    return frame.iloc[chosen].reset_index(drop=True)


def customer_bootstrap(
    values: np.ndarray, customer_key: pd.Series, *, n_resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return the mean of each column of `values` over bootstrap samples of customers.

    values: (rows, k); returns (n_resamples, k). All rows of a customer are drawn together, since
    they are dependent: with independent rows the interval would be too short. Each customer gets a
    Poisson(1) weight per resample (the Poisson bootstrap: Hanley & MacGibbon 2006; Chamandy et al.
    2012), which is a matrix product instead of 1,000 draws of indices.
    """
    values = np.asarray(values, dtype="float64").reshape(len(customer_key), -1)
    keys = np.asarray(customer_key, dtype=object)
    codes, customers = pd.factorize(keys, sort=True)
    totals = np.zeros((len(customers), values.shape[1] + 1))
    np.add.at(totals, codes, np.column_stack([values, np.ones(len(codes))]))
    means: list[np.ndarray] = []
    for weights in poisson_weights(len(customers), n_resamples, seed):
        sums = weights @ totals
        # with a handful of customers a resample can be empty: take the sample itself instead
        empty = sums[:, -1] == 0
        sums[empty] = totals.sum(axis=0)
        means.append(sums[:, :-1] / sums[:, -1:])
    return np.concatenate(means)


def poisson_weights(
    n_units: int, n_resamples: int, seed: int, at_once: int = 50
) -> Iterator[np.ndarray]:
    """Yield how often each resample holds each unit, (up to `at_once`, n_units) at a time.

    50 x 20,000 customers are 8 MB at a time. The batches do not change the draws.
    """
    random = np.random.default_rng(seed)
    for start in range(0, n_resamples, at_once):
        yield _poisson_one(random, (min(start + at_once, n_resamples) - start, n_units))


def ranking_bootstrap(
    predictions: pd.DataFrame, names: Sequence[str], *, n_resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC AUC and average precision, the mean over snapshots, under samples of customers.

    predictions: snapshot_date, customer_key, is_churned and a column per name. Each result has the
    shape (n_resamples, names); one sample stands in one row of both, so differences are paired.
    """
    days = predictions["snapshot_date"]
    rows = [np.flatnonzero((days == day).to_numpy()) for day in sorted(days.unique())]
    y = predictions["is_churned"].to_numpy()
    scores = {name: predictions[name].to_numpy() for name in names}
    aucs, precisions = [], []
    codes, customers = pd.factorize(predictions["customer_key"], sort=True)
    for drawn in poisson_weights(len(customers), n_resamples, seed):
        weights = drawn[:, codes]
        found = np.array(
            [
                [weighted_ranking(y[own], scores[name][own], weights[:, own]) for own in rows]
                for name in names
            ]
        )  # (names, snapshots, 2, resamples)
        mean = np.nanmean(found, axis=1)
        aucs.append(mean[:, 0].T)
        precisions.append(mean[:, 1].T)
    return np.concatenate(aucs), np.concatenate(precisions)


def interval(estimate: float, resamples: np.ndarray, confidence: float = 0.95) -> Interval:
    """Return the estimate with the percentile interval of its resamples."""
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(resamples, [tail, 100 - tail])
    return Interval(float(estimate), float(low), float(high))


def _poisson_table() -> np.ndarray:
    """Return the Poisson(1) weight for each of 65,536 equally likely numbers.

    Looking a weight up is ten times faster than the general Poisson generator, and the error of 16
    bits, 1e-5, is far below what 1,000 resamples resolve.
    """
    cdf = np.cumsum([exp(-1) / factorial(k) for k in range(12)])
    return np.searchsorted(np.round(65536 * cdf), np.arange(65536), side="right").astype("float64")


_POISSON_TABLE = _poisson_table()


def _poisson_one(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return _POISSON_TABLE[random.integers(0, 65536, size=shape, dtype=np.uint16)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
