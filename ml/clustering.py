"""K-means segments whose ids and names keep their meaning from day to day and from fit to fit.

What belongs here: the columns, the choice of k, the matching of a refit to its predecessor, the
names. What does not: where a model is stored; RFM scores (rfm.py).

A fitted model serves many days. `SegmentModel.estimator` is a plain scikit-learn Pipeline (log,
robust scaling, K-means) and `metadata` plain JSON: what a registry needs to bring it back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.threads import one_thread

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Array = npt.NDArray[np.float64]

COLUMNS = (
    "days_since_last_order",
    "order_count_365d",
    "revenue_amount_365d",
    "order_count_lifetime",
)
# What skops must be told to trust, beyond its own defaults, to load the estimator: nothing.
SKOPS_TRUSTED_TYPES: tuple[str, ...] = ()

K_RANGE = range(3, 9)
MIN_SHARE = 0.01
MIN_STABILITY = 0.75
# Silhouettes nearer than this are alike: then the finer segmentation is the more useful one.
SILHOUETTE_TOLERANCE = 0.05
SAMPLE_SIZE = 2_000
FIT_SIZE = 50_000


@dataclass(frozen=True)
class SegmentModel:
    """A fitted pipeline, and what its clusters are called.

    metadata: columns, seed, k, customer_count, diagnostics per k, next_cluster_id, and clusters (in
    the order of the estimator's labels): id, name, share, log_centroid, typical values.
    """

    estimator: Pipeline
    metadata: dict[str, Any]

    @property
    def version(self) -> str:
        """Label of the model's content."""
        document = json.dumps(self.metadata, sort_keys=True)
        return "segments-" + hashlib.sha256(document.encode()).hexdigest()[:12]


def fit_segments(
    status: pd.DataFrame, seed: int, previous: SegmentModel | None = None
) -> SegmentModel:
    """Fit on the customers of customer_status who ever bought (the first 50,000 by key: a key is a
    hash, so they are a random sample, and the same one every day).

    k among 3..8: no cluster under 1 % of the customers, stable (adjusted Rand index of fits on two
    halves at least 0.75), and of those the highest silhouette; among silhouettes within 0.05 of
    the best the previous k, otherwise the largest, which tells a marketer more. Where none is
    stable, stability is waived; where none has 1 % everywhere, k falls to 2 or 1.

    With `previous`, clusters inherit id and name by the optimal assignment of centroids
    (Hungarian method), provided that the previous model itself would put the new centroid into the
    cluster whose name it inherits; an id is never given twice.
    Raises ValueError where nobody has bought.
    """
    frame = _buyers(status)
    if frame.empty:
        raise ValueError("no customer has bought yet: there is nothing to cluster")
    values = _matrix(frame)[:FIT_SIZE]
    with one_thread():
        diagnostics, fitted = _candidates(values, seed)
        k = _choose(diagnostics, len(previous.metadata["clusters"]) if previous else None)
        estimator = fitted[k]
        labels = estimator.predict(values)
    means = _log_centroids(estimator)
    ids, names, next_id = _identities(means, values, previous)
    share = np.bincount(labels, minlength=k) / len(labels)
    clusters = [
        {
            "id": ids[i],
            "name": names[i],
            "share": round(float(share[i]), 6),
            "log_centroid": [float(value) for value in means[i]],
            "typical": {
                column: round(float(np.expm1(value)), 2)
                for column, value in zip(COLUMNS, means[i], strict=True)
            },
        }
        for i in range(k)
    ]
    return SegmentModel(
        estimator,
        {
            "columns": list(COLUMNS),
            "seed": seed,
            "k": k,
            "customer_count": len(values),
            "diagnostics": diagnostics,
            "next_cluster_id": next_id,
            "previous_version": previous.version if previous else None,
            "clusters": clusters,
        },
    )


def assign(model: SegmentModel, status: pd.DataFrame) -> pd.DataFrame:
    """Cluster of every customer of customer_status, sorted by customer_key.

    Returns customer_key, cluster_id (nullable integer), cluster_name; null for prospects.
    """
    status = status.sort_values("customer_key").reset_index(drop=True)
    frame = status[["customer_key"]].copy()
    ids = np.zeros(len(frame), dtype=np.int64)
    names = np.full(len(frame), None, dtype=object)
    scored = (status["lifecycle"] != "prospect").to_numpy()
    if scored.any():
        with one_thread():
            labels = model.estimator.predict(_matrix(status[scored]))
        clusters = model.metadata["clusters"]
        ids[scored] = np.array([cluster["id"] for cluster in clusters])[labels]
        names[scored] = np.array([cluster["name"] for cluster in clusters], dtype=object)[labels]
    frame["cluster_id"] = pd.arrays.IntegerArray(ids, ~scored)
    frame["cluster_name"] = pd.Series(names, dtype="object")
    return frame


def _buyers(status: pd.DataFrame) -> pd.DataFrame:
    return status[status["lifecycle"] != "prospect"].sort_values("customer_key")


def _matrix(frame: pd.DataFrame) -> Array:
    """Columns as float64; below zero (a day of clock skew, a negative total) counts as zero."""
    values = frame[list(COLUMNS)].astype("float64").to_numpy()
    if not np.isfinite(values).all():
        columns = [
            c for c, bad in zip(COLUMNS, ~np.isfinite(values).all(axis=0), strict=True) if bad
        ]
        raise ValueError(f"customer_status has missing or infinite values in {columns}")
    return np.maximum(values, 0.0)


def _fit(values: Array, k: int, seed: int) -> Pipeline:
    from sklearn.cluster import KMeans
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, RobustScaler

    pipeline = Pipeline(
        [
            ("log", FunctionTransformer(np.log1p, feature_names_out="one-to-one")),
            ("scale", RobustScaler()),
            ("cluster", KMeans(k, n_init=5, random_state=seed)),
        ]
    )
    pipeline.fit(values)
    return pipeline


def _candidates(values: Array, seed: int) -> tuple[list[dict[str, Any]], dict[int, Pipeline]]:
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    distinct = len(np.unique(values, axis=0))
    sample = values[:SAMPLE_SIZE]
    diagnostics, fitted = [], {}
    for k in (1, 2, *K_RANGE):
        if k > distinct:
            break
        fitted[k] = pipeline = _fit(values, k, seed)
        labels = pipeline.predict(values)
        smallest = np.bincount(labels, minlength=k).min() / len(labels)
        silhouette = stability = None
        if k in K_RANGE and smallest >= MIN_SHARE:
            inside = pipeline.predict(sample)
            if 2 <= len(np.unique(inside)) < len(sample):
                scaled = pipeline[:-1].transform(sample)
                silhouette = round(float(silhouette_score(scaled, inside)), 6)
            halves = [values[0::2], values[1::2]]
            if all(len(np.unique(half, axis=0)) >= k for half in halves):
                first, second = (_fit(half, k, seed).predict(sample) for half in halves)
                stability = round(float(adjusted_rand_score(first, second)), 6)
        diagnostics.append(
            {
                "k": k,
                "smallest_share": round(float(smallest), 6),
                "silhouette": silhouette,
                "stability": stability,
            }
        )
    return diagnostics, fitted


def _choose(diagnostics: list[dict[str, Any]], previous_k: int | None) -> int:
    admissible = [d for d in diagnostics if d["silhouette"] is not None]
    stable = [d for d in admissible if (d["stability"] or 0) >= MIN_STABILITY]
    if pool := stable or admissible:
        best = max(d["silhouette"] for d in pool)
        alike: list[int] = [d["k"] for d in pool if d["silhouette"] >= best - SILHOUETTE_TOLERANCE]
        return previous_k if previous_k is not None and previous_k in alike else max(alike)
    return max(d["k"] for d in diagnostics if d["k"] <= 2 and d["smallest_share"] >= MIN_SHARE)


def _log_centroids(estimator: Pipeline) -> Array:
    """Centroids in log1p of the columns, rounded so that their text is the same everywhere."""
    centers = estimator.named_steps["cluster"].cluster_centers_
    return np.round(estimator.named_steps["scale"].inverse_transform(centers), 9) + 0.0


def _identities(
    means: Array, values: Array, previous: SegmentModel | None
) -> tuple[list[int], list[str], int]:
    from scipy.optimize import linear_sum_assignment

    k = len(means)
    ids: list[int | None] = [None] * k
    names: list[str | None] = [None] * k
    next_id = 1
    if previous is not None:
        old = previous.metadata["clusters"]
        next_id = previous.metadata["next_cluster_id"]
        moved = previous.estimator[:-1].transform(np.expm1(means))
        centers = previous.estimator.named_steps["cluster"].cluster_centers_
        distance = np.linalg.norm(moved[:, None] - centers[None], axis=2)
        for new, match in zip(*linear_sum_assignment(distance), strict=True):
            # A name kept by a centroid that lies in another cluster's cell would mislead.
            if distance[new].argmin() == match:
                ids[new], names[new] = old[match]["id"], old[match]["name"]
    # Fresh clusters are numbered from the one that spends most, so the first fit's 1 is the best.
    fresh = [i for i in range(k) if ids[i] is None]
    for i in sorted(fresh, key=lambda i: (-means[i][2], -means[i][1], means[i][0], i)):
        ids[i], next_id = next_id, next_id + 1
        names[i] = _unique(_describe(means[i], values), means[i], names)
    return [i for i in ids if i is not None], [name for name in names if name], next_id


def _describe(mean: Array, values: Array) -> str:
    """Three words from a centroid, relative to the shop's own customers."""
    days, orders, spend, lifetime = np.expm1(mean)
    buying = values[values[:, 1] > 0]
    if orders < 0.5 or not len(buying):
        habit = "one-time" if lifetime < 1.5 else "repeat"
        return f"lapsed {habit} buyers"
    recency = "recent" if days <= np.median(buying[:, 0]) else "cooling"
    if lifetime < 1.5:
        habit = "one-time"
    else:
        habit = "frequent" if orders >= np.quantile(buying[:, 1], 2 / 3) else "occasional"
    low, high = np.quantile(buying[:, 2], [1 / 3, 2 / 3])
    money = "high" if spend >= high else "medium" if spend >= low else "low"
    return f"{recency} {habit} {money} spenders"


def _unique(name: str, mean: Array, taken: list[str | None]) -> str:
    """The name, made unique by what the cluster typically bought; then by a number."""
    if name not in taken:
        return name
    _, orders, spend, lifetime = np.expm1(mean)
    detailed = f"{name}, about {max(orders, lifetime):.0f} orders and {spend:.0f} a year"
    if orders < 0.5:
        detailed = f"{name}, about {lifetime:.0f} orders in all"
    candidate, number = detailed, 2
    while candidate in taken:
        candidate, number = f"{detailed} ({number})", number + 1
    return candidate
