"""The model store of a home: no champion is one thing, no answer is another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ml.registry import ModelError, NoSuchModelError
from orchestration.resources.models import SEGMENT_MODEL, Models

if TYPE_CHECKING:
    from orchestration.resources.home import Home


@pytest.fixture
def models(home: Home, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return Models(home)


def test_a_new_home_has_no_champion_and_no_segments(models: Models) -> None:
    assert models.champion("churn") is None
    assert models.segments() is None
    with pytest.raises(NoSuchModelError):
        models.segments("1")


def test_a_store_that_does_not_answer_has_not_said_there_is_none(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None would let a new model be promoted without comparison."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def locked(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database is locked")

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", locked)
    with pytest.raises(MlflowException, match="database is locked"):
        models.champion("churn")
    with pytest.raises(MlflowException, match="database is locked"):
        models.segments()


@pytest.mark.parametrize("name", ["churn", SEGMENT_MODEL])
def test_a_champion_without_its_hash_is_an_error(models: Models, name: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(models.uri, models.uri)
    client.create_registered_model(name)
    version = client.create_model_version(name, source=models.home.mlflow_artifacts.as_uri())
    client.set_registered_model_alias(name, "champion", version.version)
    with pytest.raises(ModelError, match="sha256"):
        models.champion(name) if name == "churn" else models.segments()


def test_a_shop_too_young_to_compare_gets_the_recency_rule(models: Models) -> None:
    """Without it the daily job of a small shop would have no scores for half a year."""
    from datetime import date

    import pandas as pd

    from ml.features import FEATURES
    from ml.training import KEYS, Fallback, train

    nothing = pd.DataFrame(columns=[*KEYS, "matured_date", *FEATURES])
    result = train(nothing, date(2025, 1, 31), 90, 7)
    assert isinstance(result, Fallback)
    ref = models.register("churn", result, {})
    champion = models.champion("churn")
    assert champion is not None
    assert (champion.version, champion.recipe) == (ref.version, "recency_rule")
    told = models.describe(result, ref)
    assert told["decision"] == "promoted"
    assert told["compared_out_of_time"] is False
    assert "compared with nothing" in told["reason"]
    assert models.candidates(ref) == []


def test_a_version_that_uses_what_is_switched_off_does_not_come_back(models: Models) -> None:
    """Neither by rollback nor by promotion, until the shop switches it on again."""
    from datetime import date

    import pandas as pd
    from mlflow import MlflowClient

    from ml.features import FEATURES
    from ml.training import KEYS, train

    nothing = pd.DataFrame(columns=[*KEYS, "matured_date", *FEATURES])
    for day in (date(2025, 1, 30), date(2025, 1, 31)):
        models.register("churn", train(nothing, day, 90, 7), {})
    given = '["gender_female", "age_years"]'
    MlflowClient(models.uri, models.uri).set_model_version_tag(
        "churn", "1", "protected_features", given
    )
    half = Models(models.home, ("age",))
    says = r"version 1 uses gender, now switched off.*--promote VERSION.*_FEATURES=age,gender"
    with pytest.raises(ModelError, match=says):
        half.rollback("churn", "complaints", "Jo")
    with pytest.raises(ModelError, match=says):
        half.promote("churn", 1, "asked for", "Jo")
    with pytest.raises(ModelError, match="uses gender, age, now switched off"):
        models.promote("churn", 1, "asked for", "Jo")
    assert [move.version for move in models.history("churn")] == [1, 2]
    MlflowClient(models.uri, models.uri).set_registered_model_alias("churn", "champion", "1")
    with pytest.raises(ModelError, match="uses gender, age, now switched off"):
        models.serving("churn")  # set by hand, in MLflow
    assert [move.version for move in models.history("churn")] == [1, 2]
    MlflowClient(models.uri, models.uri).set_registered_model_alias("churn", "champion", "2")
    both = Models(models.home, ("gender", "age"))
    assert both.rollback("churn", "complaints", "Jo").version == 1
    assert models.serving("churn").version == 1  # by the rules, and until the next training
    assert half.promote("churn", 2, "has none", "Jo").version == 2
    assert both.promote("churn", 1, "asked for", "Jo").version == 1


def test_a_model_of_value_is_kept_with_what_was_measured(models: Models) -> None:
    from datetime import date

    import numpy as np
    import pandas as pd

    from ml.buy_till_you_die import PurchasePopulation, SpendPopulation
    from ml.customer_value import Bands, CustomerValueModel, Purchases
    from ml.model_card import value_card
    from ml.registry import load_document
    from ml.validation import Interval
    from ml.value_metrics import deciles
    from ml.value_training import COVERAGE_COLUMNS, ValueResult
    from orchestration.resources.models import VALUE_MODEL

    assert models.value() is None
    assert models.value_champion() is None
    with pytest.raises(NoSuchModelError):
        models.value("1")
    purchases = Purchases(
        PurchasePopulation("mbg", 0.5, 60.0, 0.9, 1.6), SpendPopulation(6.0, 4.0, 15.0), 1.1
    )
    bands = {"orders 30": Bands(np.array([1.0]), np.zeros(2), np.full(2, 1.5))}
    money = np.arange(1.0, 41.0)
    covered = dict.fromkeys(COVERAGE_COLUMNS, 0.8)
    covered |= {"window_days": 30, "measure": "revenue", "tier": "high", "row_count": 40}
    result = ValueResult(
        as_of=date(2025, 1, 31),
        model=CustomerValueModel(
            purchases, "buy_till_you_die", {}, bands, {}, {}, float("nan"), (30,)
        ),
        recipe="buy_till_you_die",
        purchase_recipes={"7": "recency_rule"},
        last_matured_date=date(2025, 1, 31),
        training_row_count=40,
        is_compared=True,
        reason="the only one",
        metrics={"value_30d_gini_average": 0.6},
        intervals={"value_30d_gini": Interval(0.6, 0.5, 0.7)},
        deciles={30: deciles(money, money)},
        coverages=pd.DataFrame([covered]),
        origins={"value_30d": [date(2024, 12, 31)]},
        data_digest="ab",
    )
    ref = models.register_value(result, {"partition": "2025-01-31"})
    champion = models.value_champion()
    assert champion is not None
    assert (champion.version, champion.recipe, champion.last_matured_date) == (
        ref.version,
        "buy_till_you_die",
        date(2025, 1, 31),
    )
    assert champion.purchase_recipes == {"7": "recency_rule"}
    found = models.value()
    assert found is not None
    assert found[0].version == ref.version
    assert found[0].tags["compared_out_of_time"] == "true"
    assert found[1].purchases.spend == purchases.spend
    assert found[1].bands["orders 30"].high.tolist() == [1.5, 1.5]
    assert pd.isna(found[1].margin_rate)
    assert '"value_30d_gini": [0.6, 0.5, 0.7]' in load_document(ref, "value.json")

    card = load_document(models.resolve(VALUE_MODEL), "model_card.md")
    assert f"# customer_value, version {ref.version}: buy_till_you_die" in card
    assert f"SHA-256 {ref.sha256}" in card
    assert "| 30 days | revenue | high | 40 | 0.800 [0.800, 0.800] | 80.0% | 0.800 [" in card
    assert "| value_30d_gini | 0.6000 | 0.5000 to 0.7000 |" in card
    assert "it is marked as extrapolated" in card
    of_year = {"value_365d_bias": Interval(0.209, 0.11, 0.3)}
    tested = value_card(replace(result, intervals=of_year), "customer_value", 2, "ab")
    assert "it was +21% [+11%, +30%] off in all" in tested
    untested = value_card(
        replace(result, coverages=result.coverages[:0]), "customer_value", 2, "ab"
    )
    assert "it is not known what they cover" in untested

    # one that lost its comparison is kept beside it, and its error is spent
    lost = replace(
        result, as_of=date(2025, 2, 28), promote=False, spent_alpha=0.03, reason="not better"
    )
    assert models.attempt(VALUE_MODEL, date(2025, 2, 28)) == 1
    other = models.register_value(lost, {})
    assert other.version == ref.version + 1
    assert models.resolve(VALUE_MODEL).version == ref.version
    assert models.resolve(VALUE_MODEL, "challenger").version == other.version
    assert models.attempt(VALUE_MODEL, date(2025, 3, 31)) == 2
    from mlflow import MlflowClient

    pictures = MlflowClient(models.uri, models.uri).list_artifacts(ref.run_id, "evaluation")
    assert [one.path for one in pictures] == ["evaluation/deciles_30d.png"]
