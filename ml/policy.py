"""One day of a policy over offers: learn it from the log, evaluate it off-policy, promote or keep.

What belongs here: the step from the policy in force and the log to the policy in force. What does
not: posteriors (bandit.py), estimators and their refusals (off_policy.py), the draw
(ml/campaigns/assignment.py).

A candidate is evaluated on customers whom it has not seen: for each fold it is learnt from the
others. It replaces the policy in force where the lower bound of its doubly robust gain over that
policy, and over the campaign's own weights, lies above zero; a log that cannot tell (support,
logged probabilities, effective sample) promotes nothing. The look is a daily one, so the bound is
that of a confidence sequence, which holds on all days together for one candidate. The candidate is
another one each day; with three equal offers, 2,400 customers and ten looks it promoted in 0 of 20
campaigns, the interval of a single look in 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ml.bandit import POLICY_COLUMNS, Array, Settings, probabilities, update_policy
from ml.off_policy import Log, cell_means, decide
from ml.uplift.learners import hash_folds

COLUMNS = [*POLICY_COLUMNS, "candidate_propensity", "is_promoted", "verdict"]
FOLDS = 5
# Customers at which the sequence is tightest where the campaign plans none. Any number is valid
# that was chosen beforehand.
PLANNED_COUNT = 5_000


def own_policy(
    weights: Mapping[str, float], segments: Sequence[str], settings: Settings
) -> pd.DataFrame:
    """The policy before anything is known, `COLUMNS`: the campaign's own weights."""
    nothing = pd.DataFrame(columns=["segment", "arm", "propensity", "reward"])
    policy = update_policy(nothing, weights, segments, settings)
    return _with(policy, policy, False, "the campaign begins with its own weights")


def next_policy(
    log: pd.DataFrame,
    weights: Mapping[str, float],
    segments: Sequence[str],
    settings: Settings,
    in_force: pd.DataFrame,
    *,
    salt: str = "policy",
    planned_count: int | None = None,
) -> pd.DataFrame:
    """The policy for who is not assigned yet, `COLUMNS`; `propensity` is the one in force.

    log: customer_key, segment, arm, propensity, weights_json (the probabilities of all arms at the
    draw), reward; customers whose window has closed. in_force: `COLUMNS` of the day before. The
    evidence in the table is that of the candidate, whose probability is candidate_propensity.
    planned_count: customers that the campaign plans, the same on every day.
    """
    candidate = update_policy(log, weights, segments, settings)
    arms = list(weights)
    if not candidate["best_probability"].notna().any():
        return _with(candidate, in_force, False, "not promoted: there is too little evidence")
    if np.allclose(_table(candidate, in_force), candidate["propensity"], atol=1e-9):
        return _with(candidate, in_force, False, "the candidate is the policy in force")
    log = log.sort_values("customer_key", ignore_index=True)
    folds = hash_folds(log["customer_key"], FOLDS, salt)
    drawn = {text: json.loads(text) for text in set(log["weights_json"])}
    logged = Log(
        pd.Index(arms).get_indexer(pd.Index(log["arm"])),
        log["reward"].to_numpy(dtype="float64"),
        np.array([[drawn[text].get(arm, 0.0) for arm in arms] for text in log["weights_json"]]),
    )
    unseen = np.zeros((len(log), len(arms)))
    for fold in range(FOLDS):
        learned = update_policy(log[folds != fold], weights, segments, settings)
        unseen[folds == fold] = probabilities(learned, log.loc[folds == fold, "segment"], arms)
    own = own_policy(weights, segments, settings)
    decision = decide(
        logged,
        unseen,
        {
            "the policy in force": probabilities(in_force, log["segment"], arms),
            "the campaign's own weights": probabilities(own, log["segment"], arms),
        },
        cell_means(log["segment"], logged, folds),
        larger_is_better=settings.larger_is_better,
        planned_count=planned_count or PLANNED_COUNT,
    )
    kept = candidate if decision.promote else in_force
    return _with(candidate, kept, decision.promote, decision.reason)


def _with(
    candidate: pd.DataFrame, in_force: pd.DataFrame, is_promoted: bool, verdict: str
) -> pd.DataFrame:
    return candidate.assign(
        candidate_propensity=candidate["propensity"],
        propensity=_table(candidate, in_force),
        is_promoted=is_promoted,
        verdict=verdict,
    )[COLUMNS]


def _table(candidate: pd.DataFrame, in_force: pd.DataFrame) -> Array:
    """The probabilities in force, in the candidate's order of segments and arms."""
    known = in_force.set_index(["segment", "arm"])["propensity"]
    wanted = pd.MultiIndex.from_frame(candidate[["segment", "arm"]])
    found = known.reindex(wanted).to_numpy(dtype="float64")
    if np.isnan(found).any():
        raise ValueError("the policy in force is of other segments or arms than the candidate")
    return found
