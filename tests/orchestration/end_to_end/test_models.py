"""Which model scores which day: rollback, the same day again, rescoring, a swapped file."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest
from tiny_shop import EMPTY, ENROLLED, FIRST, MODEL_FILE, messages, platform, run_assets

from orchestration.cli import main
from orchestration.defs.daily import RESCORE_TAG
from orchestration.defs.models.assets import CHURN_MODEL
from orchestration.tables import CHURN_SCORES

if TYPE_CHECKING:
    import pandas as pd
    from tiny_shop import Enrolled

    from orchestration.resources.home import Home

SCORES = [CHURN_SCORES.name]
RESCORE = {RESCORE_TAG: "true"}


def _scores(home: Home, day: date) -> pd.DataFrame:
    return platform(home).lake.read_frame(CHURN_SCORES, [day])


def _second_champion(home: Home, last_matured: date) -> None:
    """Register the champion's estimator again as one that has seen later labels."""
    from ml import registry

    models = platform(home).models
    ref = models.resolve(CHURN_MODEL)
    registry.register_estimator(
        home.mlflow_uri,
        CHURN_MODEL,
        models.load(ref),
        run_name="later",
        tags={
            "recipe": ref.recipe,
            "last_matured_date": last_matured.isoformat(),
            "horizon_days": str(ref.horizon_days),
        },
        metrics={},
        documents={},
        reason="a test of which version scores",
    )


def test_scores_of_the_past_are_no_forecasts(enrolled: Enrolled) -> None:
    """The first model has seen the labels that matured on the day of enrolment, and not later."""
    for day in (ENROLLED, FIRST, EMPTY):
        scores = _scores(enrolled.home, day)
        assert set(scores["model_version"]) == {"1"}
        assert set(scores["model_last_matured_date"]) <= {ENROLLED - timedelta(n) for n in range(2)}
        assert not scores["is_rescore"].any()


def test_the_card_compares_scores_by_who_the_customers_are(enrolled: Enrolled) -> None:
    """What is delivered of gender, birth year and country reaches the card, and consent with it."""
    from ml.registry import load_document

    card = load_document(platform(enrolled.home).models.resolve(CHURN_MODEL), "model_card.md")
    assert "Gender, age and country are no features of the model." in card
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")]
    told = {row[0].removeprefix("| "): row for row in rows if len(row) == 10}
    assert {"gender", "age_band", "country"} <= told.keys()
    assert "not compared" not in card
    reachable, eligible = (float(cell.strip(" |%")) for cell in told["gender"][-2:])
    assert 100 > reachable > eligible > 0  # whom a campaign may reach, and whom it may take


@pytest.mark.slow
def test_protected_attributes_switched_on_reach_card_and_scores(
    copy: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml.features import INPUTS
    from ml.registry import load_document

    monkeypatch.setenv("HOLDFAST_HOME", str(copy.root))
    monkeypatch.setenv("HOLDFAST_PROTECTED_FEATURES", "age,country,gender")
    assert main(["train", "--as-of", ENROLLED.isoformat()]) == 0
    ref = platform(copy).models.resolve(CHURN_MODEL, "2")
    assert ref.inputs[len(INPUTS) :] == ("age_years",)  # of the others no group is large enough
    card = load_document(ref, "model_card.md")
    assert "The model uses age as features, switched on by the shop." in card
    platform(copy).models.promote(CHURN_MODEL, 2, "a test", "a test")
    assert run_assets(copy, SCORES, FIRST, RESCORE).success
    scores = _scores(copy, FIRST)
    assert set(scores["model_version"]) == {"2"}
    assert scores["reason_1"].notna().all()


def test_reasons_stay_from_one_day_to_the_next(enrolled: Enrolled) -> None:
    """A day older and nothing else: the same reasons, but for those at the edge of being one."""
    import numpy as np

    from ml.features import FEATURES
    from ml.reasons import contributions
    from orchestration.tables import mart_tables

    opened, table = platform(enrolled.home), mart_tables()["customer_features"]
    model = opened.models.load(opened.models.resolve(CHURN_MODEL))
    days = [
        opened.lake.read_frame(table, [day], money_as_float=True).set_index("customer_key")
        for day in (ENROLLED, FIRST)
    ]
    facts = [name for name in FEATURES if name.endswith(("_lifetime", "_365d"))]
    facts += ["event_count_90d", "contact_count_90d"]
    both = days[0].index.intersection(days[1].index)
    before, then = (day.loc[both, facts].astype("float64").fillna(-1) for day in days)
    same = both[(before == then).all(axis=1)]

    def told(day: pd.DataFrame) -> list[set[str]]:
        effects = contributions(model, day.reset_index(), day.reset_index())
        effects = effects.set_index("customer_key").loc[same]
        order = np.argsort(-effects.to_numpy(), axis=1, kind="stable")[:, :3]
        return [
            {effects.columns[g] for g in own if effects.iat[i, g] >= 0.02}
            for i, own in enumerate(order)
        ]

    pairs = [(one, other) for one, other in zip(*map(told, days), strict=True) if one and other]
    assert len(pairs) > 50
    assert np.mean([len(one & other) / len(one | other) for one, other in pairs]) > 0.85
    assert np.mean([one == other for one, other in pairs]) > 0.7


def test_which_version_scores(
    copy: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(copy.root))
    before = _scores(copy, FIRST)
    _second_champion(copy, last_matured=FIRST + timedelta(days=1))

    # a day that is published keeps its version
    assert run_assets(copy, SCORES, FIRST).success
    assert before.equals(_scores(copy, FIRST))

    # unless it is told not to; the new model has seen labels from after FIRST
    assert run_assets(copy, SCORES, FIRST, RESCORE).success
    rescored = _scores(copy, FIRST)
    assert set(rescored["model_version"]) == {"2"}
    assert rescored["is_rescore"].all()
    assert run_assets(copy, SCORES, EMPTY, RESCORE).success
    assert not _scores(copy, EMPTY)["is_rescore"].any()

    # one command rolls back, and the next scoring run honours it
    assert main(["champion", "--rollback", "--reason", "worse on Monday"]) == 0
    printed = capsys.readouterr().out
    assert "champion is version 1 again" in printed
    assert "worse on Monday" in printed
    assert run_assets(copy, SCORES, FIRST, RESCORE).success
    assert before.equals(_scores(copy, FIRST))


def test_a_swapped_model_refuses_to_score(copy: Home) -> None:
    models = platform(copy).models
    ref = models.resolve(CHURN_MODEL)
    files = sorted(copy.mlflow_artifacts.rglob(MODEL_FILE))
    by_hash = {_sha256(path): path for path in files}
    own = by_hash.pop(ref.sha256)
    own.write_bytes(next(iter(by_hash.values())).read_bytes())  # a real model, of something else
    before = _scores(copy, FIRST)
    result = run_assets(copy, SCORES, FIRST, RESCORE)
    assert not result.success
    assert "is not the file that was registered" in messages(result)
    assert before.equals(_scores(copy, FIRST))


def _sha256(path: object) -> str:
    from pathlib import Path

    from orchestration.resources.content import file_sha256

    assert isinstance(path, Path)
    return file_sha256(path)
