"""What a model must show before it serves: gates, the comparison with the champion, the budget.

Belongs here: the thresholds and the decisions, as functions of out-of-time predictions. Does not
belong here: making those predictions (ml.training), remembering what was decided (ml.registry).

A gate says that a candidate is fit to serve at all. A new recipe must then be better than the
champion, beyond doubt and within one budget of errors for all challengers of a quarter. The same
recipe on newer labels must only be no worse: a champion that is never refitted grows stale (.031 of
average precision in nine months on Online Retail II).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from math import pi

import numpy as np
import pandas as pd
from scipy.stats import norm

from ml.metrics import evaluate, log_losses
from ml.slices import SMALLEST_SLICE
from ml.validation import Interval, customer_bootstrap, interval, ranking_bootstrap

#: Chance that any challenger of a quarter replaces a champion that is as good.
QUARTER_ERROR_BUDGET = 0.05
AUC_MARGIN = 0.005  # a refresh may lose this much, and not more
SLICE_MARGIN = 0.02  # log loss that a slice may lose, beyond doubt
MEAN_ABSOLUTE_BIAS, WORST_BIAS = 0.06, 0.15
SLOPES = (0.8, 1.3)
# Above these a model of a shop without contracts is presumed to leak until a person has looked:
# honest AUCs of the field are .68 to .79.
LEAK_AUC, LEAK_GAIN = 0.9, 0.015
SEASON_DAYS = 730


@dataclass(frozen=True)
class Gate:
    """One condition that a candidate must meet to be registered, and what was found."""

    name: str
    passed: bool
    detail: str


def alpha_of(attempt: int) -> float:
    """Return the error that the n-th challenger of a quarter may spend, n from 1.

    budget * 6 / (pi n)^2, which sums to the budget however many come (the spending of Foster &
    Stine 2008 without wealth that grows): 3.0 %, .8 %, .3 %, ...
    """
    if attempt < 1:
        raise ValueError(f"challengers are counted from 1, got {attempt}")
    return QUARTER_ERROR_BUDGET * 6 / (pi * attempt) ** 2


def quarter_of(day: date) -> str:
    """Return the quarter whose budget a training as of `day` spends, e.g. 2025Q2."""
    return f"{day.year}Q{(day.month - 1) // 3 + 1}"


def difference(
    predictions: pd.DataFrame, first: str, second: str, *, n_resamples: int, seed: int
) -> tuple[Interval, float]:
    """Return log loss of the first minus the second as `paired_difference` does."""
    y = predictions["is_churned"].to_numpy()
    values = log_losses(y, predictions[first].to_numpy()) - log_losses(
        y, predictions[second].to_numpy()
    )
    return paired_difference(
        values, predictions["customer_key"], n_resamples=n_resamples, seed=seed
    )


def paired_difference(
    values: np.ndarray, customer_key: pd.Series, *, n_resamples: int, seed: int
) -> tuple[Interval, float]:
    """Return the mean of losses of the first minus the second, its interval, and the p-value.

    values: the difference of each row. The one-sided p-value of "the first is no better" is by the
    normal approximation of the bootstrap over customers: a budget that is spent over many
    challengers asks for tails that 1,000 resamples do not hold.
    """
    resamples = customer_bootstrap(values, customer_key, n_resamples=n_resamples, seed=seed)[:, 0]
    found, error = interval(values.mean(), resamples), float(resamples.std())
    p = float(norm.cdf(found.estimate / error)) if error > 0 else 0.5
    return found, p


def auc_difference(
    predictions: pd.DataFrame, first: str, second: str, *, n_resamples: int, seed: int
) -> Interval:
    """Return ROC AUC of the first minus the second, the mean over snapshots, with its interval."""
    aucs, _ = ranking_bootstrap(predictions, (first, second), n_resamples=n_resamples, seed=seed)
    at = [
        np.nanmean(
            [
                evaluate(own["is_churned"].to_numpy(), own[name].to_numpy())["roc_auc"]
                for _, own in predictions.groupby("snapshot_date")
            ]
        )
        for name in (first, second)
    ]
    return interval(float(at[0] - at[1]), aucs[:, 0] - aucs[:, 1])


def calibration_gates(
    metrics: Mapping[str, float], by_origin: Mapping[date, Mapping[str, float]]
) -> list[Gate]:
    """Return the gates of calibration: bias over snapshots, slope, Brier against the base rate."""
    biases = [abs(values["calibration_bias"]) for values in by_origin.values()]
    slope = metrics["calibration_slope"]
    # the base rate of each snapshot, which no constant can know beforehand
    brier = float(np.mean([values["brier"] for values in by_origin.values()]))
    base = float(np.mean([v["churn_rate"] * (1 - v["churn_rate"]) for v in by_origin.values()]))
    return [
        Gate(
            "calibration_bias",
            float(np.mean(biases)) <= MEAN_ABSOLUTE_BIAS and max(biases) <= WORST_BIAS,
            f"|mean probability - churn rate| over snapshots: mean {np.mean(biases):.3f}, at most "
            f"{MEAN_ABSOLUTE_BIAS}; worst {max(biases):.3f}, at most {WORST_BIAS}",
        ),
        Gate(
            "calibration_slope",
            bool(SLOPES[0] <= slope <= SLOPES[1]),
            f"slope {slope:.2f}, within {SLOPES[0]} and {SLOPES[1]}",
        ),
        Gate(
            "brier_beats_base_rate",
            brier < base,
            f"Brier {brier:.4f}, that of each snapshot's churn rate {base:.4f}",
        ),
    ]


def leak_suspicion(
    metrics: Mapping[str, float], auc_gain: float | None, reference: str
) -> str | None:
    """Return why a model is held until a person has looked for a leak, or None."""
    auc = metrics["roc_auc"]
    if auc > LEAK_AUC:
        return f"ROC AUC {auc:.3f} is above {LEAK_AUC}"
    if auc_gain is not None and auc_gain > LEAK_GAIN:
        return f"ROC AUC is {auc_gain:+.4f} above that of {reference}, more than {LEAK_GAIN}"
    return None


def slice_gate(
    predictions: pd.DataFrame,
    by: Mapping[str, pd.Series],
    first: str,
    second: str,
    *,
    n_resamples: int,
    seed: int,
) -> Gate:
    """Return whether no slice is worse off with the first than with the second, beyond doubt.

    A slice refuses only if the whole of its Holm-corrected interval of the difference in log loss
    lies above `SLICE_MARGIN`; slices of fewer than `SMALLEST_SLICE` customers are not asked.
    """
    y = predictions["is_churned"].to_numpy()
    values = log_losses(y, predictions[first].to_numpy()) - log_losses(
        y, predictions[second].to_numpy()
    )
    tested: list[tuple[float, str, float]] = []
    for name, groups in by.items():
        for value in sorted(groups.unique(), key=str):
            own = (groups == value).to_numpy()
            keys = predictions["customer_key"][own]
            if keys.nunique() < SMALLEST_SLICE:
                continue
            error = float(
                customer_bootstrap(values[own], keys, n_resamples=n_resamples, seed=seed).std()
            )
            mean = float(values[own].mean())
            z = (mean - SLICE_MARGIN) / error if error > 0 else -np.inf
            tested.append((float(norm.sf(z)), f"{name} {value}", mean))
    refused = []
    for rank, (p, name, mean) in enumerate(sorted(tested)):
        if p >= 0.025 / (len(tested) - rank):  # Holm: the first that holds, holds for the rest
            break
        refused.append(f"{name} ({mean:+.3f})")
    detail = (
        f"log loss rises by more than {SLICE_MARGIN} for {', '.join(refused)}"
        if refused
        else f"none of {len(tested)} slices loses more than {SLICE_MARGIN} of log loss beyond doubt"
    )
    return Gate("slices", not refused, detail)


def season_note(first: date, last: date) -> str:
    """Return what the history allows to say of the season."""
    days = (last - first).days
    if days < SEASON_DAYS:
        return (
            f"{days} days of history, fewer than {SEASON_DAYS}: the season is unlearned. What "
            "looks like one may be a trend, and the level of the probabilities may be off by it"
        )
    return f"{days} days of history: the season has been seen at least twice"
