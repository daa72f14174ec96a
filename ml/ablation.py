"""What a model would say if what it is told by one group of columns were typical.

Belongs here: the ablation of every kind of estimator that serves, down to its parts. Does not
belong here: which columns form a group, and what is told about it (ml.reasons).

A copy of all rows per group answers the question for any model, and costs as many predictions as
there are groups. A model that knows better says so here: a part that never sees a group's columns
needs no copy for it, and boosted trees are looked up with all but one group's columns at once
(ml.boosting).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from sklearn.pipeline import Pipeline

from ml.boosting import BoostingClassifier, leaf_sets
from ml.estimators import CalibratedOnLaterSnapshots, LogOddsAverage, SelectFeatures, pooled
from ml.survival import DiscreteTimeSurvival

Array = npt.NDArray[np.float64]
Groups = Sequence[Sequence[int]]


@singledispatch
def ablated(model: Any, X: Any, groups: Groups, typical: Array) -> Array:
    """Return P(second class) of shape (groups + 1, rows).

    In row g the columns `groups[g]` of X are as in `typical`, one value per column; in the last one
    nothing is. X: a frame or an array, whichever the model takes; no column is in two groups.
    """
    return by_copies(model.predict_proba, X, groups, typical)


@ablated.register
def _(model: CalibratedOnLaterSnapshots, X: Any, groups: Groups, typical: Array) -> Array:
    return model.rescale(ablated(model.estimator_, X, groups, typical))


@ablated.register
def _(model: LogOddsAverage, X: Any, groups: Groups, typical: Array) -> Array:
    parts = [ablated(part, X, groups, typical) for part in model.estimators_]
    return pooled(np.stack(parts, axis=-1), model.weights_)


@ablated.register
def _(model: Pipeline, X: Any, groups: Groups, typical: Array) -> Array:
    select = model[0]
    if not isinstance(select, SelectFeatures):
        return by_copies(model.predict_proba, X, groups, typical)
    matrix = select.transform(X)
    selected = select.transform(pd.DataFrame([typical], columns=X.columns))[0]
    place = {name: place for place, name in enumerate(select.names)}
    kept = [[place[name] for name in X.columns[list(group)] if name in place] for group in groups]
    rest = model[1:]
    if len(rest) == 1:
        return ablated(rest[0], matrix, kept, selected)
    return by_copies(rest.predict_proba, matrix, kept, selected)


@ablated.register
def _(model: DiscreteTimeSurvival, X: Array, groups: Groups, typical: Array) -> Array:
    found = model.predict_without(X, groups, typical)
    return by_copies(model.predict_proba, X, groups, typical) if found is None else found


@ablated.register
def _(model: BoostingClassifier, X: Array, groups: Groups, typical: Array) -> Array:
    sets = leaf_sets(model)
    if sets is None:
        return by_copies(model.predict_proba, X, groups, typical)
    return np.array([expit(sets.total(left)) for left in sets.without(X, groups, typical)])


def by_copies(predict: Callable[[Any], Array], X: Any, groups: Groups, typical: Array) -> Array:
    """Predict all copies at once: a forest spends 30 ms a call before it looks at a row."""
    asked = [number for number, group in enumerate(groups) if len(group)]
    values = np.asarray(X)
    copies = np.repeat(values[None], len(asked) + 1, axis=0)
    for copy, number in zip(copies, asked, strict=False):
        copy[:, groups[number]] = typical[groups[number]]
    flat = copies.reshape(-1, values.shape[1])
    told = pd.DataFrame(flat, columns=X.columns) if isinstance(X, pd.DataFrame) else flat
    p = predict(told)[:, 1].reshape(len(asked) + 1, len(values))
    found = np.repeat(p[-1:], len(groups) + 1, axis=0)
    found[asked] = p[:-1]
    return found
