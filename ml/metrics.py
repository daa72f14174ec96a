"""How good a probability is, and where to cut it. Formulas with their sources, ties handled.

Belongs here: pure functions of labels and probabilities. Does not belong here: which rows they are
measured on (ml.validation, ml.training).

y is 1 for churned; p is P(churn). Log loss is the primary metric: it is proper, so only the true
probability minimises it, and margin at risk is probability times money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

# What a published score resolves (6 digits): a certain wrong prediction costs at most -ln(1e-6).
_EPSILON = 1e-6

PRIMARY_METRIC = "log_loss"
#: How rows are counted by what was predicted and what came.
CONFUSION = ("true_positive", "false_positive", "false_negative", "true_negative")


@dataclass(frozen=True)
class ProfitModel:
    """What a contact earns and costs, in the shop's currency, for the threshold by profit.

    customer_value: margin kept when a churner is persuaded to stay; accept_rate: share of
    contacted churners who are; incentive_amount: paid to whoever accepts, and to every contacted
    customer who would have stayed; contact_amount: paid per contact; acceptance: in words, where
    accept_rate comes from. The deterministic form (MPC) of Verbraken, Verbeke & Baesens, IEEE TKDE
    25(5), 2013, whose values are the defaults. They come from telecoms: a shop sets its own.
    """

    customer_value: float = 200.0
    accept_rate: float = 0.3
    incentive_amount: float = 10.0
    contact_amount: float = 1.0
    acceptance: str = "assumed, as published for telecoms"

    @property
    def churner_profit(self) -> float:
        """Expected profit of contacting one customer who would churn."""
        kept = self.accept_rate * (self.customer_value - self.incentive_amount)
        return kept - self.contact_amount

    @property
    def stayer_profit(self) -> float:
        """Expected profit (a loss) of contacting one customer who would stay anyway."""
        return -(self.incentive_amount + self.contact_amount)


@dataclass(frozen=True)
class Thresholds:
    """Probabilities at and above which a customer counts as predicted to churn, by purpose."""

    capacity: float
    profit: float
    roc: float

    def as_dict(self) -> dict[str, float]:
        """Return {"capacity": ..., "profit": ..., "roc": ...}."""
        return {"capacity": self.capacity, "profit": self.profit, "roc": self.roc}


def evaluate(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Return every metric by name; NaN where a metric needs both classes and has one.

    Names: log_loss, log_loss_no_skill (H(pi)), roc_auc, average_precision, top_decile_lift,
    top_decile_lift_normalised, brier, brier_skill, ece, calibration_bias, calibration_slope,
    churn_rate, mean_probability, row_count.

    Raises:
        ValueError: no rows, differing lengths, labels other than 0/1, probabilities outside [0, 1].
    """
    y, p = _checked(y, p)
    rate = float(y.mean())
    both = 0 < rate < 1
    brier = float(np.mean((p - y) ** 2))
    lift = top_decile_lift(y, p) if rate > 0 else float("nan")
    return {
        "log_loss": float(log_losses(y, p).mean()),
        "log_loss_no_skill": entropy(rate),
        "roc_auc": roc_auc(y, p) if both else float("nan"),
        "average_precision": average_precision(y, p) if rate > 0 else float("nan"),
        "top_decile_lift": lift,
        "top_decile_lift_normalised": normalised_lift(lift, rate) if both else float("nan"),
        "brier": brier,
        "brier_skill": 1 - brier / (rate * (1 - rate)) if both else float("nan"),
        "ece": expected_calibration_error(y, p),
        "calibration_bias": float(p.mean()) - rate,
        "calibration_slope": calibration_slope(y, p) if both else float("nan"),
        "churn_rate": rate,
        "mean_probability": float(p.mean()),
        "row_count": float(len(y)),
    }


def log_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return -log P(label) per row, p clipped to [1e-6, 1 - 1e-6]."""
    clipped = np.clip(p, _EPSILON, 1 - _EPSILON)
    return -np.where(np.asarray(y) == 1, np.log(clipped), np.log1p(-clipped))


def entropy(rate: float) -> float:
    """H(pi) in nats: the log loss of the best constant, hence the floor of no skill."""
    if rate in (0.0, 1.0):
        return 0.0
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def roc_auc(y: np.ndarray, p: np.ndarray) -> float:
    """P(a churner is ranked above a stayer), ties counting one half (Mann-Whitney)."""
    from scipy.stats import rankdata

    ranks = rankdata(p)
    positive = int((y == 1).sum())
    negative = len(y) - positive
    return float((ranks[y == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def average_precision(y: np.ndarray, p: np.ndarray) -> float:
    """sum_n (R_n - R_{n-1}) P_n over distinct scores, no interpolation; no skill scores pi."""
    _, hits, sizes = _by_descending_score(y, p)
    precision = np.cumsum(hits) / np.cumsum(sizes)
    return float((hits / hits.sum() * precision).sum())


def top_decile_lift(y: np.ndarray, p: np.ndarray) -> float:
    """Churn rate among the riskiest k = max(1, round(n / 10)) over the rate of all.

    Where the k-th score is tied, the expected value under a random order of the tied rows: the
    result depends on no row order.
    """
    k = max(1, int(np.floor(0.1 * len(y) + 0.5)))
    _, hits, sizes = _by_descending_score(y, p)
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    taken = np.clip(k - before, 0, sizes)
    return float((hits * taken / sizes).sum() / k / np.mean(y))


def normalised_lift(lift: float, rate: float) -> float:
    """(lift - 1) / (max - 1), max = min(1 / pi, 10): 0 random, 1 perfect, comparable across pi."""
    return float((lift - 1) / (min(1 / rate, 10.0) - 1))


def expected_calibration_error(y: np.ndarray, p: np.ndarray, n_bins: int = 10) -> float:
    """sum_b (n_b / n) |mean(y_b) - mean(p_b)| over 10 equal-mass bins.

    Equal-mass, not equal-width: bins hold equally many rows in order of p; rows with the same p are
    spread over a boundary in equal proportion, so no row order shows.
    """
    rates, means, masses = calibration_bins(y, p, n_bins)
    return float((masses * np.abs(rates - means)).sum() / masses.sum())


def calibration_slope(y: np.ndarray, p: np.ndarray) -> float:
    """b of y ~ Bernoulli(sigmoid(a + b logit(p))) (Cox 1958): 1 calibrated, below 1 too extreme.

    Free in sign: an inverted model has a negative slope. NaN where p is constant. Newton's method;
    separable labels give a large number, not infinity.
    """
    clipped = np.clip(p, _EPSILON, 1 - _EPSILON)
    x = np.log(clipped) - np.log1p(-clipped)
    if x.std() < 1e-9:
        return float("nan")
    z = np.column_stack([np.ones(len(x)), (x - x.mean()) / x.std()])
    beta = np.zeros(2)
    for _ in range(50):
        q = 1 / (1 + np.exp(-np.clip(z @ beta, -30, 30)))
        curvature = (z * np.maximum(q * (1 - q), 1e-9)[:, None]).T @ z
        step = np.linalg.solve(curvature, z.T @ (y - q))
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[1] / x.std())


def weighted_ranking(
    y: np.ndarray, p: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC AUC and average precision under each row of `weights`, of shape (k, rows).

    With weights of a bootstrap each row is a resample. Ties as in `roc_auc`, `average_precision`;
    NaN where a resample holds one class only.
    """
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(p[order]) != 0]))
    ordered = np.asarray(weights, dtype="float64")[:, order]
    hits = np.add.reduceat(ordered * (y[order] == 1), starts, axis=1)
    misses = np.add.reduceat(ordered * (y[order] == 0), starts, axis=1)
    found, false = np.cumsum(hits, axis=1), np.cumsum(misses, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        beaten = (false[:, -1:] - false + misses / 2) * hits
        auc = beaten.sum(axis=1) / (found[:, -1] * false[:, -1])
        precision = np.where(found + false > 0, found / (found + false), 0.0)
        ap = (hits * precision).sum(axis=1) / found[:, -1]
    return auc, ap


def calibration_bins(
    y: np.ndarray, p: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return churn rate, mean probability and rows of each equal-mass bin, ascending in p."""
    scores, hits, sizes = _by_descending_score(y, p)
    scores, hits, sizes = scores[::-1], hits[::-1], sizes[::-1]
    n_bins = min(n_bins, int(sizes.sum()))
    edges = np.linspace(0, sizes.sum(), n_bins + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(sizes)])

    def mass(values: np.ndarray) -> np.ndarray:
        return np.diff(np.interp(edges, cumulative, np.concatenate([[0.0], np.cumsum(values)])))

    masses = mass(sizes)
    return mass(hits) / masses, mass(scores * sizes) / masses, masses


def confusion_at(y: np.ndarray, p: np.ndarray, threshold: float | np.ndarray) -> dict[str, int]:
    """Return the rows by what `p >= threshold` predicts and what came, as counts (`CONFUSION`).

    threshold: one number, or one per row where rows were cut on different days.
    """
    predicted, churned = p >= threshold, np.asarray(y) == 1
    cells = (predicted & churned, predicted & ~churned, ~predicted & churned, ~predicted & ~churned)
    return {name: int(cell.sum()) for name, cell in zip(CONFUSION, cells, strict=True)}


def classified(confusion: Mapping[str, int]) -> dict[str, float]:
    """Return accuracy, precision, recall, f1 of counts by `confusion_at`; 0 where none applies."""
    right, wrong, missed, left = (confusion[name] for name in CONFUSION)
    precision = right / (right + wrong) if right + wrong else 0.0
    recall = right / (right + missed) if right + missed else 0.0
    return {
        "accuracy": (right + left) / (right + wrong + missed + left),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
    }


def choose_thresholds(
    y: np.ndarray, p: np.ndarray, *, capacity_share: float, profit: ProfitModel
) -> Thresholds:
    """Choose thresholds on validation rows. Never call it with the rows that will be reported.

    capacity: the score of the last customer that a team able to contact `capacity_share` of all
    would reach; profit: the threshold of the highest total profit under `profit` (infinite if
    contacting anybody loses money); roc: the highest recall minus false-positive rate (Youden).
    """
    y, p = _checked(y, p)
    if not 0 < y.mean() < 1:
        raise ValueError("thresholds need labels of both classes")
    scores, hits, sizes = _by_descending_score(y, p)
    contacted, churners = np.cumsum(sizes), np.cumsum(hits)
    k = max(1, int(np.floor(capacity_share * len(y) + 0.5)))
    youden = churners / churners[-1] - (contacted - churners) / (contacted[-1] - churners[-1])
    earned = churners * profit.churner_profit + (contacted - churners) * profit.stayer_profit
    best = int(np.argmax(earned))
    return Thresholds(
        capacity=float(scores[np.searchsorted(contacted, k)]),
        profit=float(scores[best]) if earned[best] > 0 else float("inf"),
        roc=float(scores[int(np.argmax(youden))]),
    )


def profit_per_customer(
    y: np.ndarray, p: np.ndarray, threshold: float, profit: ProfitModel
) -> float:
    """Return the total profit of contacting everyone at or above the threshold, per customer."""
    contacted = p >= threshold
    churners = float((contacted & (y == 1)).sum())
    stayers = float(contacted.sum()) - churners
    return (churners * profit.churner_profit + stayers * profit.stayer_profit) / len(y)


def profit_by_value(
    y: np.ndarray, p: np.ndarray, value: np.ndarray, profit: ProfitModel
) -> dict[str, float]:
    """Return the profit per customer of contacting whom it pays, everybody, and nobody's (0).

    value: margin kept if this customer is persuaded, one per row, in place of
    `profit.customer_value`. A customer is contacted where the expected profit is positive:
    p * accept * (value - incentive) - (1 - p) * incentive - contact > 0, the individual form of
    Verbraken et al. 2013 (Verbeke, Olaya, Berrevoets, Verboven & Maldonado 2020). What it earned is
    by the label, with acceptance in expectation. Keys: profit_by_value, profit_of_all,
    share_contacted.
    """
    y, p = _checked(y, p)
    value = np.asarray(value, dtype="float64")
    if value.shape != y.shape or not np.isfinite(value).all():
        raise ValueError("the value of a customer must be one finite number per row")
    kept = profit.accept_rate * (value - profit.incentive_amount)
    expected = p * kept - (1 - p) * profit.incentive_amount - profit.contact_amount
    earned = np.where(y == 1, kept, -profit.incentive_amount) - profit.contact_amount
    contacted = expected > 0
    return {
        "profit_by_value": float((earned * contacted).mean()),
        "profit_of_all": float(earned.mean()),
        "share_contacted": float(contacted.mean()),
    }


def expected_maximum_profit(
    y: np.ndarray,
    p: np.ndarray,
    *,
    alpha: float = 6.0,
    beta: float = 14.0,
    customer_value: float = 200.0,
    incentive_amount: float = 10.0,
    contact_amount: float = 1.0,
) -> tuple[float, float]:
    """Return EMPC and the share of customers that its optimal thresholds contact.

    Verbraken, Verbeke & Baesens, IEEE TKDE 25(5), 2013, with their telecom defaults: acceptance is
    Beta(alpha, beta). For each acceptance the best point of the ROC convex hull; in closed form by
    incomplete beta functions between the hull's slopes. A fixture to compare with other software,
    not a ground for decisions: on shops its defaults contact nearly everybody.
    """
    from scipy.special import betainc

    y, p = _checked(y, p)
    delta, phi = incentive_amount / customer_value, contact_amount / customer_value
    rate = float(y.mean())
    if not 0 < rate < 1:
        raise ValueError("EMPC needs labels of both classes")
    curve = curves(y, p)
    found = _hull(
        np.concatenate([[0.0], curve["false_positive_rate"]]),
        np.concatenate([[0.0], curve["recall"]]),
    )
    false, true = found[:, 0], found[:, 1]
    # from this acceptance on, the next corner of the hull earns more than this one
    with np.errstate(divide="ignore"):
        ratio = np.diff(false) * (1 - rate) / (np.diff(true) * rate)
    turns = np.clip((ratio * (delta + phi) + phi) / (1 - delta), 0.0, 1.0)
    edges = np.concatenate([[0.0], turns, [1.0]])
    mass = np.diff(betainc(alpha, beta, edges))
    moment = np.diff(betainc(alpha + 1, beta, edges)) * alpha / (alpha + beta)
    gain = customer_value * true * rate * ((1 - delta) * moment - phi * mass)
    loss = customer_value * false * (1 - rate) * (delta + phi) * mass
    share = (true * rate + false * (1 - rate)) * mass
    return float((gain - loss).sum()), float(share.sum())


def _hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the corners of the upper convex hull of a ROC curve, of shape (corners, 2)."""
    corners: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (x1 - x0) * (point[1] - y0) < (y1 - y0) * (point[0] - x0):
                break
            corners.pop()
        corners.append(point)
    return np.array(corners)


def curves(y: np.ndarray, p: np.ndarray) -> pd.DataFrame:
    """Return share contacted, recall, false-positive rate, precision at each distinct threshold."""
    scores, hits, sizes = _by_descending_score(y, p)
    contacted, churners = np.cumsum(sizes), np.cumsum(hits)
    return pd.DataFrame(
        {
            "threshold": scores,
            "share": contacted / contacted[-1],
            "recall": churners / max(churners[-1], 1),
            "false_positive_rate": (contacted - churners) / max(contacted[-1] - churners[-1], 1),
            "precision": churners / contacted,
        }
    )


def _by_descending_score(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct scores, descending, with the churners and rows of each."""
    scores, inverse = np.unique(p, return_inverse=True)
    sizes = np.bincount(inverse, minlength=len(scores)).astype("float64")
    hits = np.bincount(inverse, weights=y, minlength=len(scores))
    return scores[::-1], hits[::-1], sizes[::-1]


def _checked(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, p = np.asarray(y), np.asarray(p, dtype="float64")
    if len(y) == 0:
        raise ValueError("no rows to evaluate")
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and probabilities {p.shape} must be equal vectors")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities must lie within [0, 1]")
    return y.astype("int64"), p
