"""Where customers of a campaign went missing: the sample ratio at every stage, drawn to measured.

What belongs here: who was drawn under which weights, and the stages that they pass. What does not:
the tests (ml/experiments/srm.py), what follows for the verdict (results.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.experiments.moments import Codes
from ml.experiments.srm import StageCheck, check_passage, check_stage

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
STAGES = ("eligible", "assigned", "sent", "delivered", "measured")


@dataclass(frozen=True)
class Drawn:
    """Customers with an arm each: n codes into `arms`, the day of each draw, and its phase.

    A phase is everybody drawn under one set of weights: of a bandit one a segment and day. What
    differs between phases must not look like a difference between arms.
    """

    arms: list[str]
    arm: Codes
    assigned: npt.NDArray[np.datetime64]
    phase: Codes
    weights: list[dict[str, float]]

    @classmethod
    def of(cls, frame: pd.DataFrame, weights: Mapping[str, float]) -> Drawn:
        """The rows of a ledger: arm, assigned_date, and where known weights_json.

        weights: per arm, in order, where the rows do not say. Raises ValueError where a row has an
        arm that is not among them.
        """
        arms = list(weights)
        arm = pd.Index(arms).get_indexer(pd.Index(frame["arm"])).astype(np.int64)
        if (arm < 0).any():
            unknown = sorted(set(frame["arm"][arm < 0]))
            raise ValueError(f"the ledger has arms {unknown}; the plan has {arms}")
        assigned = pd.to_datetime(frame["assigned_date"]).to_numpy().astype("datetime64[D]")
        if "weights_json" not in frame or not len(frame):
            return cls(arms, arm, assigned, np.zeros(len(frame), dtype=np.int64), [dict(weights)])
        codes, texts = pd.factorize(frame["weights_json"], sort=True)
        return cls(arms, arm, assigned, codes.astype(np.int64), [json.loads(t) for t in texts])

    def counts(self, mask: Mask) -> dict[str, int]:
        """Customers per arm."""
        return {arm: int(count.sum()) for arm, count in self.by_phase(mask).items()}

    def by_phase(self, mask: Mask) -> dict[str, Codes]:
        """Customers per arm and phase."""
        k, phases = len(self.arms), len(self.weights)
        found = np.bincount(self.phase[mask] * k + self.arm[mask], minlength=k * phases)
        return dict(zip(self.arms, found.reshape(phases, k).T, strict=True))

    def due(self) -> dict[str, Array]:
        """Weight per arm and phase."""
        return {arm: np.array([w.get(arm, 0.0) for w in self.weights]) for arm in self.arms}

    def on(self, day: np.datetime64) -> Mask:
        """Who was drawn by the end of `day`."""
        return np.asarray(self.assigned <= day)


def check_stages(
    drawn: Drawn,
    day: np.datetime64,
    *,
    reached: Sequence[tuple[str, Mask]],
    is_measured: Mask,
    is_closed: Mask,
    contacted: Collection[str],
    eligible: Drawn | None = None,
) -> dict[str, StageCheck]:
    """The sample ratio at every stage that is known, of the customers drawn by the end of `day`.

    reached: `sent`, `delivered`, in this order, and whom it reached; they compare the arms that are
    `contacted` alike. Masks (n,) are in the order of `drawn`. eligible: those who passed every rule
    on the day on which they first did, with the arm that was, or would have been, theirs: who left
    before layer, coverage and holdout must not depend on it.
    """
    known = drawn.on(day)
    found = {"assigned": check_stage("assigned", drawn.by_phase(known), drawn.due())}
    if eligible is not None and (then := eligible.on(day)).any():
        found["eligible"] = check_stage("eligible", eligible.by_phase(then), eligible.due())
    before = known & is_measured
    for stage, mask in reached:
        passed, entered = drawn.by_phase(before & mask), drawn.by_phase(before)
        found[stage] = check_passage(
            stage, {a: passed[a] for a in contacted}, {a: entered[a] for a in contacted}
        )
        before = before & mask
    passed = drawn.by_phase(is_closed & is_measured)
    found["measured"] = check_passage("measured", passed, drawn.by_phase(is_closed))
    return found
