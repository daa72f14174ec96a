"""RFM: scores of 1 to 5 for recency, frequency and money, and the eleven standard segments.

What belongs here: cut-points, scores, the table of 125 codes. What does not: clusters
(clustering.py), lifecycles (they come with the customer's status).

Cut-points are the quintiles of the customers with an order in 365 days. They are values, not
ranks: equal customers always share a score, which NTILE does not give (most shops have most buyers
at one order). Everybody who ever bought is scored with them, so a dormant customer (no order in
365 days) has 1-1-1. One set of cut-points serves many days, and its version is in every row.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

# The standard table (Spotler, Squeezely); its 125 codes are covered exactly once.
_CODES = {
    "Champions": "555 554 544 545 454 455 445",
    "Loyal": "543 444 435 355 354 345 344 335",
    "Potential loyalist": "553 551 552 541 542 533 532 531 452 451 442 441 431 453 433 432 423 "
    "353 352 351 342 341 333 323",
    "New customers": "512 511 422 421 412 411 311",
    "Promising": "525 524 523 522 521 515 514 513 425 424 413 414 415 315 314 313",
    "Need attention": "535 534 443 434 343 334 325 324",
    "About to sleep": "331 321 312 221 213 231 241 251",
    "At risk": "255 254 245 244 253 252 243 242 235 234 225 224 153 152 145 143 142 135 134 133 "
    "125 124",
    "Cannot lose them": "155 154 144 214 215 115 114 113",
    "Hibernating": "332 322 233 232 223 222 132 123 122 212 211",
    "Lost": "111 112 121 131 141 151",
}
RFM_SEGMENTS = tuple(_CODES)
SEGMENT_OF_CODE = {code: name for name, codes in _CODES.items() for code in codes.split()}

# Looked up by the three scores, each less one.
_CODE_AT = np.array(
    [[[f"{r}{f}{m}" for m in range(1, 6)] for f in range(1, 6)] for r in range(1, 6)], dtype=object
)

_QUINTILES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class CutPoints:
    """Four ascending bounds per dimension; a value belongs to the fifth that it does not exceed."""

    recency_days: tuple[float, ...]
    frequency_order_count: tuple[float, ...]
    monetary_amount: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, bounds in asdict(self).items():
            if len(bounds) != 4 or list(bounds) != sorted(bounds):
                raise ValueError(f"{name} needs four ascending cut-points, got {bounds}")

    @property
    def version(self) -> str:
        """Label of these cut-points together with the table of codes."""
        document = json.dumps([json.loads(self.to_json()), _CODES], sort_keys=True)
        return "rfm-" + hashlib.sha256(document.encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CutPoints:
        """The cut-points that `to_json` wrote."""
        return cls(**{name: tuple(map(float, bounds)) for name, bounds in json.loads(text).items()})


def cut_points(status: pd.DataFrame) -> CutPoints:
    """Quintiles of customer_status rows with an order in 365 days.

    A bound is a value that occurs (inverse of the empirical distribution), so no interpolation can
    differ in the last digit. Without any such customer all bounds are 0.
    """
    buyers = status[status["order_count_365d"].astype("float64") > 0]

    def quintiles(column: str) -> tuple[float, ...]:
        values = buyers[column].astype("float64").to_numpy()
        if not len(values):
            return (0.0,) * 4
        return tuple(map(float, np.quantile(values, _QUINTILES, method="inverted_cdf")))

    return CutPoints(
        quintiles("days_since_last_order"),
        quintiles("order_count_365d"),
        quintiles("revenue_amount_365d"),
    )


def apply(points: CutPoints, status: pd.DataFrame) -> pd.DataFrame:
    """Scores and segment of every customer of customer_status, sorted by customer_key.

    Returns customer_key, lifecycle, recency_score, frequency_score, monetary_score (nullable
    integers), rfm_code, rfm_segment, rfm_version; all but the first two null for prospects.
    """
    status = status.sort_values("customer_key").reset_index(drop=True)
    frame = status[["customer_key", "lifecycle"]].copy()
    scored = (status["lifecycle"] != "prospect").to_numpy()

    def exceeded(bounds: tuple[float, ...], column: str) -> npt.NDArray[np.int64]:
        values = status[column].astype("float64").to_numpy()[scored]
        if np.isnan(values).any():
            raise ValueError(
                f"customer_status.{column} is null for {int(np.isnan(values).sum())} customers "
                "whose lifecycle says that they have bought"
            )
        return np.searchsorted(np.asarray(bounds), values, side="left").astype(np.int64)

    scores = {
        "recency_score": 5 - exceeded(points.recency_days, "days_since_last_order"),
        "frequency_score": 1 + exceeded(points.frequency_order_count, "order_count_365d"),
        "monetary_score": 1 + exceeded(points.monetary_amount, "revenue_amount_365d"),
    }
    for name, values in scores.items():
        column = np.ones(len(frame), dtype=np.int64)
        column[scored] = values
        frame[name] = pd.arrays.IntegerArray(column, ~scored)
    recency, frequency, money = scores.values()
    codes = np.full(len(frame), None, dtype=object)
    codes[scored] = _CODE_AT[recency - 1, frequency - 1, money - 1]
    versions = np.full(len(frame), None, dtype=object)
    versions[scored] = points.version
    frame["rfm_code"] = pd.Series(codes, dtype="object")
    frame["rfm_segment"] = (
        frame["rfm_code"].map(SEGMENT_OF_CODE, na_action="ignore").astype("object")
    )
    frame["rfm_version"] = pd.Series(versions, dtype="object")
    return frame


def rfm_segments(status: pd.DataFrame, points: CutPoints | None = None) -> pd.DataFrame:
    """RFM of one day; with the cut-points of that day where none are given."""
    return apply(points or cut_points(status), status)
