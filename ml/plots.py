"""The pictures of a training, as PNG bytes: ROC, precision-recall, calibration, lift, importances.

Belongs here: drawing. Does not belong here: the numbers (ml.metrics) or where pictures are kept
(ml.registry). Uses matplotlib's object interface with the Agg canvas: no pyplot, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ml.metrics import calibration_bins, curves

Predictions = Mapping[str, np.ndarray]


def evaluation_plots(y: np.ndarray, predictions: Predictions) -> dict[str, bytes]:
    """Return file name -> PNG of the four curves, one line per model, on the same rows."""
    return {
        "roc.png": _figure(
            lambda axes: _roc(axes, y, predictions),
            "ROC curve",
            "false-positive rate",
            "recall (true-positive rate)",
        ),
        "precision_recall.png": _figure(
            lambda axes: _precision_recall(axes, y, predictions),
            "Precision and recall",
            "recall",
            "precision",
        ),
        "calibration.png": _figure(
            lambda axes: _calibration(axes, y, predictions),
            "Calibration (10 equal-mass bins)",
            "mean predicted probability",
            "observed churn rate",
        ),
        "lift.png": _figure(
            lambda axes: _lift(axes, y, predictions),
            "Lift by share contacted, riskiest first",
            "share of customers contacted",
            "lift over random choice",
        ),
    }


def calibration_by_day_plot(predictions: pd.DataFrame, name: str) -> bytes:
    """Return the calibration curve of one model at each test snapshot, a line per snapshot.

    predictions: snapshot_date, is_churned and `name`. Together the snapshots may look calibrated
    while each is off by its season.
    """

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
        for day, own in predictions.groupby("snapshot_date"):
            rates, means, _ = calibration_bins(own["is_churned"].to_numpy(), own[name].to_numpy())
            axes.plot(means, rates, marker="o", markersize=3, label=str(day))
        axes.legend(fontsize=8)

    return _figure(
        draw,
        f"Calibration of {name} by test snapshot",
        "mean predicted probability",
        "observed churn rate",
    )


def importance_plot(importances: pd.DataFrame, top: int = 20) -> bytes:
    """Return a bar chart of the `top` features of `feature`, `importance`, `low`, `high`."""
    shown = importances.head(top).iloc[::-1]
    rise = shown["importance"]
    # a percentile interval of few resamples may leave its estimate out
    ends = [(rise - shown["low"]).clip(lower=0), (shown["high"] - rise).clip(lower=0)]

    def draw(axes: Any) -> None:
        axes.barh(shown["feature"], rise, color="tab:blue", xerr=ends, ecolor="grey", capsize=2)

    return _figure(
        draw,
        "Permutation importance, out of time",
        "rise in log loss when shuffled, with 95 % interval",
        "",
        height=0.28 * len(shown) + 1.2,
    )


def decile_plot(deciles: pd.DataFrame, window_days: int) -> bytes:
    """Return a chart of mean expected and mean actual revenue by tenth of customers."""

    def draw(axes: Any) -> None:
        place = np.arange(len(deciles))
        axes.bar(place - 0.2, deciles["expected_mean"], width=0.4, label="expected")
        axes.bar(place + 0.2, deciles["actual_mean"], width=0.4, label="actual")
        axes.set_xticks(place, deciles["decile"])
        axes.legend(fontsize=8)

    return _figure(
        draw,
        f"Revenue of {window_days} days, out of time",
        "tenth of customers, most expected first",
        "mean revenue of a customer",
    )


def _roc(axes: Any, y: np.ndarray, predictions: Predictions) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="random")
    for name, p in predictions.items():
        curve = curves(y, p)
        x = np.concatenate([[0], curve["false_positive_rate"]])
        axes.plot(x, np.concatenate([[0], curve["recall"]]), label=name)
    axes.legend(fontsize=8)


def _precision_recall(axes: Any, y: np.ndarray, predictions: Predictions) -> None:
    axes.axhline(y.mean(), color="grey", linestyle=":", label="churn rate")
    for name, p in predictions.items():
        curve = curves(y, p)
        axes.step(curve["recall"], curve["precision"], where="pre", label=name)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8)


def _calibration(axes: Any, y: np.ndarray, predictions: Predictions) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    for name, p in predictions.items():
        rates, means, _ = calibration_bins(y, p)
        axes.plot(means, rates, marker="o", markersize=3, label=name)
    axes.legend(fontsize=8)


def _lift(axes: Any, y: np.ndarray, predictions: Predictions) -> None:
    axes.axhline(1, color="grey", linestyle=":", label="random")
    share = np.linspace(0.01, 1, 100)
    if y.mean() > 0:
        axes.plot(
            share, np.minimum(1 / y.mean(), 1 / share), color="grey", linewidth=0.8, label="perfect"
        )
    for name, p in predictions.items():
        curve = curves(y, p)
        found = np.interp(
            share, np.concatenate([[0], curve["share"]]), np.concatenate([[0], curve["recall"]])
        )
        axes.plot(share, found / share, label=name)
    axes.legend(fontsize=8)


def _figure(
    draw: Callable[[Any], None], title: str, xlabel: str, ylabel: str, height: float = 4.5
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
