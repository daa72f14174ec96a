"""Which settings of a recipe: tried by time, on nothing but what was known on a day.

Belongs here: the search. Does not belong here: which settings are tried (ml.candidates), fits that
serve (ml.fitting), the comparison of recipes (ml.training).

Each inner origin T lies at least one horizon before the day of the search: what was known by T
teaches, the snapshot of T judges. The judged customers have earlier snapshots among those that
teach, as they have when a model serves. To teach with one half of the customers and judge by the
other was tried on Online Retail II: half of the rows prefer smaller trees, which then lost more
than they won (docs/benchmarks-models.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from ml.estimators import fit_monotone_line, logit, sigmoid
from ml.fitting import known_periods, sees_a_year, teaching_rows
from ml.metrics import log_losses
from ml.threads import one_thread
from ml.validation import Split, rolling_origins

#: Fewer judging rows, or fewer of a class, tell no two settings apart.
MIN_ROWS, MIN_CLASS_ROWS = 200, 50
SURE = 2.0


@dataclass(frozen=True)
class Searched:
    """What a search found: one row a recipe and setting tried, and the settings to take.

    tried: recipe, settings (text), log_loss, minus_declared with its standard error, is_chosen.
    """

    chosen: Mapping[str, Mapping[str, Any]]
    tried: pd.DataFrame
    origins: tuple[date, ...]

    def said(self, recipe: str) -> str:
        """Return the settings chosen for a recipe in words, or that none were searched."""
        rows = self.tried[(self.tried["recipe"] == recipe) & self.tried["is_chosen"].astype(bool)]
        return "not searched" if rows.empty else str(rows["settings"].iloc[0])


def search(
    recipes: Mapping[str, Any],
    settings: Mapping[str, Sequence[Mapping[str, Any]]],
    panel: pd.DataFrame,
    known_by: date,
    served: Split,
    horizon_days: int,
    features: Sequence[str],
    seed: int,
    *,
    n_origins: int = 2,
    spacing_days: int = 28,
    later_days: int = 28,
    max_rows: int = 60_000,
) -> Searched:
    """Choose for each recipe one of its settings by what was known on a day.

    panel: the rows of `on_grid`; rows and labels that were not known by `known_by` are not looked
    at. served: what the fits that serve know, of which nothing counts but whether they have seen a
    year. settings: recipe -> parameters for `set_params`, those that the recipe is declared with
    first. The lowest log loss is taken, the mean over origins, where it is `SURE` standard errors
    of the paired difference, by customer, below the declared one's; chance picks among equals, and
    a shop is better served by one setting than by another each week. Before, a line through the
    log-odds is fitted to the rows that judge, since the level is calibrated afterwards and is the
    season's more than the setting's.

    Where no inner origin has enough rows of both classes nothing is chosen. An origin counts only
    if its fit is told the time of the year, or is not, as those that serve (`sees_a_year`): without
    it smaller trees do better, and lost .007 of log loss on Online Retail II in a fit that had it.
    """
    # on_grid may have been made for a later day: what matured after this one is unknown here
    days = sorted(panel.loc[panel["is_churned"].notna(), "snapshot_date"].unique())
    origins = rolling_origins(
        days, known_by, horizon_days, n_origins, spacing_days=spacing_days, later_days=later_days
    )
    usable, judged = [], []
    for split in origins:
        own = panel[panel["snapshot_date"] == split.test]
        own = own[own["is_churned"].notna()]
        counts = np.bincount(own["is_churned"].astype("int64"), minlength=2)
        if len(own) < MIN_ROWS or counts.min() < MIN_CLASS_ROWS:
            continue
        usable.append(split)
        judged.append(own)
    columns = ["recipe", "settings", "log_loss", "minus_declared", "error", "is_chosen"]
    if not usable:
        return Searched({}, pd.DataFrame(columns=columns), ())
    # origins weigh alike
    weight = np.concatenate([np.full(len(own), 1 / len(own)) for own in judged]) / len(judged)
    customers = np.concatenate([own["customer_key"].to_numpy(dtype=object) for own in judged])
    chosen, table = {}, []
    for name, choices in settings.items():
        wanted = _sees_a_year(recipes[name], panel, served, features, max_rows, seed)
        losses = np.zeros((len(weight), len(choices)))
        is_told = np.ones(len(weight), dtype=bool)
        at = 0
        for split, own in zip(usable, judged, strict=True):
            rows, y = teaching_rows(panel, split, known_periods(recipes[name]), max_rows, seed)
            X, X_own = rows[list(features)], own[list(features)]
            truth = own["is_churned"].to_numpy("int64")
            if sees_a_year(recipes[name], X, y) != wanted:
                is_told[at : at + len(own)] = False
                at += len(own)
                continue
            for i, choice in enumerate(choices):
                fitted = _fit(clone(recipes[name]).set_params(**choice), X, y)
                p = np.asarray(fitted.predict_proba(X_own)[:, 1])
                intercept, slope = fit_monotone_line(logit(p), truth)
                losses[at : at + len(own), i] = log_losses(
                    truth, sigmoid(intercept + slope * logit(p))
                )
            at += len(own)
        if not is_told.any():
            continue
        losses, own_weight = losses[is_told], weight[is_told] / weight[is_told].sum()
        means = own_weight @ losses
        gaps = means - means[0]
        away = (losses - losses[:, [0]] - gaps) * own_weight[:, None]
        by_customer = pd.DataFrame(away).groupby(customers[is_told]).sum()
        errors = np.sqrt((by_customer**2).sum().to_numpy())
        best = int(np.argmin(means))
        taken = best if gaps[best] < -SURE * errors[best] else 0
        chosen[name] = dict(choices[taken])
        for i, choice in enumerate(choices):
            said = ", ".join(f"{key.split('__')[-1]} {value}" for key, value in choice.items())
            found = (round(float(values[i]), 6) for values in (means, gaps, errors))
            table.append((name, said, *found, i == taken))
    return Searched(
        chosen, pd.DataFrame(table, columns=columns), tuple(split.test for split in usable)
    )


def _sees_a_year(
    recipe: Any,
    panel: pd.DataFrame,
    split: Split,
    features: Sequence[str],
    max_rows: int,
    seed: int,
) -> bool | None:
    ends = known_periods(recipe)
    if ends is None:
        return None
    rows, y = teaching_rows(panel, split, ends, max_rows, seed)
    return sees_a_year(recipe, rows[list(features)], y)


def tuned(recipes: Mapping[str, Any], found: Searched) -> dict[str, Any]:
    """Return the recipes, unfitted, with the settings that were chosen."""
    return {
        name: clone(recipe).set_params(**found.chosen[name]) if name in found.chosen else recipe
        for name, recipe in recipes.items()
    }


def _fit(recipe: Any, X: pd.DataFrame, y: np.ndarray) -> Any:
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return recipe.fit(X, y)
