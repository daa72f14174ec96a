"""Moments of several columns in cells of units: sums that add up, whatever cells are merged.

What belongs here: n, means and covariances per cell in one pass over a million units. What does
not: what a cell is (an arm, an arm in a stratum), what is tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml.experiments.two_sample import PairedSample

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """Sums of k columns in C cells, for squares about a common centre so that little cancels.

    n (C,): units. totals (C, k): of the columns. sums (C, k) and products (C, k, k): of the columns
    less their mean over all cells.
    """

    n: Codes
    totals: Array
    sums: Array
    products: Array

    @classmethod
    def of(cls, columns: list[Array], cells: Codes, count: int) -> Moments:
        """Moments of equally long columns; `cells` says in which of `count` cells a unit lies.

        Raises ValueError where a value is missing or infinite.
        """
        k = len(columns)
        n = np.bincount(cells, minlength=count).astype(np.int64)
        totals, sums, products = np.zeros((count, k)), np.zeros((count, k)), np.zeros((count, k, k))
        centred = []
        for i, column in enumerate(columns):
            mean = float(column.mean()) if len(column) else 0.0
            if not np.isfinite(mean):
                bad = int((~np.isfinite(column)).sum())
                raise ValueError(f"{bad} of {len(column)} values are missing or infinite")
            centred.append(column - mean)
            totals[:, i] = np.bincount(cells, weights=column, minlength=count)
            sums[:, i] = np.bincount(cells, weights=centred[i], minlength=count)
        for i in range(k):
            for j in range(i, k):
                product = np.bincount(cells, weights=centred[i] * centred[j], minlength=count)
                products[:, i, j] = products[:, j, i] = product
        return cls(n, totals, sums, products)

    def merged(self, into: Codes, count: int) -> Moments:
        """The moments after cell c has become part of cell `into[c]`, of `count`."""

        def add(values: Any) -> Any:
            total = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
            np.add.at(total, into, values)
            return total

        return Moments(add(self.n), add(self.totals), add(self.sums), add(self.products))

    def mean(self, cell: int) -> Array:
        """Means (k,) of one cell; not a number where it is empty."""
        if not self.n[cell]:
            return np.full(self.totals.shape[1], np.nan)
        return self.totals[cell] / self.n[cell]

    def covariance(self, cell: int) -> Array:
        """Covariances (k, k) of one cell, over n - 1; exactly 0 for a column without spread."""
        n = int(self.n[cell])
        if n < 2:
            return np.full((self.totals.shape[1],) * 2, np.nan)
        about_mean = self.products[cell] - np.outer(self.sums[cell], self.sums[cell]) / n
        # What rounding leaves of equal values is no variance: 1e-12 of the sum of squares.
        spread = np.diag(about_mean) > 1e-12 * np.abs(np.diag(self.products[cell]))
        return np.where(np.outer(spread, spread), about_mean, 0.0) / (n - 1)

    def pair(self, cell: int, y: int = 0, x: int | None = None) -> PairedSample:
        """One cell's column `y` with the covariate `x` (by default none)."""
        mean, c = self.mean(cell), self.covariance(cell)
        if x is None:
            return PairedSample(int(self.n[cell]), float(mean[y]), 0.0, float(c[y, y]), 0.0, 0.0)
        return PairedSample(
            int(self.n[cell]),
            float(mean[y]),
            float(mean[x]),
            float(c[y, y]),
            float(c[x, x]),
            float(c[y, x]),
        )
