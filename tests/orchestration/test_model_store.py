"""The model store of a home: no champion is one thing, no answer is another."""

from __future__ import annotations

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
