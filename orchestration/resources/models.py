"""Registered models of one home, through `ml.registry`.

What belongs here: where the store lies, the names it is called by, and what Dagster shows of a
training. Logging, hashes, aliases and trusted types are in `ml/registry.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from ml.clustering import SegmentModel
    from ml.customer_value import CustomerValueModel
    from ml.registry import ChampionMove, ModelRef
    from ml.rfm import CutPoints
    from ml.training import Champion, Fallback, TrainingResult
    from ml.uplift.training import Learned
    from ml.value_training import ValueChampion, ValueResult
    from orchestration.resources.home import Home

SEGMENT_MODEL = "customer_segments"
VALUE_MODEL = "customer_value"
_SEGMENTS_FILE = "segments.json"
_UPLIFT_FILE = "uplift.json"
# How is learnt from a campaign. Raised where it changes, so that every home learns again: 2 asks
# for money, too; 3 learns from the campaign as it was drawn, and from forecasts only.
UPLIFT_LESSON = 3
_VALUE_FILE = "value.json"


@dataclass(frozen=True)
class Segments:
    """What segments a day: K-means and the RFM cut-points, of one registered version."""

    version: str
    clusters: SegmentModel
    cut_points: CutPoints


@dataclass(frozen=True)
class Uplift:
    """What was learnt from one arm of a campaign, and whether its ranking may be used."""

    ref: ModelRef
    is_promoted: bool
    reason: str
    table: str
    of_profit: ModelRef | None = None  # the same learner of incremental profit


def uplift_model(campaign_id: str, arm: str) -> str:
    """Return the registered name of what was learnt from one arm of a campaign."""
    return f"uplift_{campaign_id}_{arm}"


class Models:
    """The model store of one home.

    protected_features: the protected attributes (ml.features) that the shop has switched on.
    """

    def __init__(self, home: Home, protected_features: Sequence[str] = ()) -> None:
        from ml import registry

        self.uri = home.mlflow_uri
        self.home = home
        self.protected_features = tuple(protected_features)
        registry.initialise(self.uri, home.mlflow_artifacts.as_uri())

    def resolve(self, name: str, version: str | None = None) -> ModelRef:
        """Return a version, by default the champion.

        Raises:
            ModelError: there is none; the message says to train first.
        """
        from ml import registry

        return registry.resolve(self.uri, name, version or registry.CHAMPION)

    def serving(self, name: str) -> ModelRef:
        """Return the champion for a day that is scored, under the rules of a promotion.

        An alias that was set in MLflow itself is honoured and recorded, unless the version is held
        for a leak review or uses an attribute that is off. One that the rules promoted serves on
        after the attribute was switched off, until the next training replaces it.

        Raises:
            ModelError: there is none, or it was set by hand and must not serve.
        """
        from ml import registry

        return registry.honour_alias(self.uri, name, self._require_switched_on)

    def load(self, ref: ModelRef) -> Any:
        """Return the estimator, after its hash was checked."""
        from ml import registry

        return registry.load(ref)

    def champion(self, name: str) -> Champion | None:
        """Return the champion as a comparison needs it, or None where there is none yet.

        Raises:
            ModelError: there is one that must not be used.
            mlflow.exceptions.MlflowException: the store cannot be asked. None would then let a
                new model be promoted without comparison.
        """
        from ml import registry
        from ml.features import protected_in
        from ml.training import Champion

        try:
            ref = registry.resolve(self.uri, name)
        except registry.NoSuchModelError:
            return None
        return Champion(
            ref.version,
            ref.recipe,
            ref.last_matured_date,
            registry.load(ref),
            protected_in(ref.inputs),
        )

    def register(
        self, name: str, result: TrainingResult | Fallback, tags: Mapping[str, str]
    ) -> ModelRef:
        """Log a training and register its model."""
        from ml import registry
        from ml.training import Fallback

        if isinstance(result, Fallback):
            return registry.register_fallback(self.uri, name, result, tags)
        run_id = registry.log_training(self.uri, result, tags)
        return registry.register(self.uri, name, result, run_id, tags)

    def attempt(self, name: str, as_of: date) -> int:
        """Return which challenger of its quarter a training as of a day would be, from 1."""
        from ml import registry

        return registry.attempt_of(self.uri, name, as_of)

    def rollback(self, name: str, reason: str, approver: str) -> ModelRef:
        """Make the previous champion champion again.

        Raises:
            ModelError: there is none, it no longer loads, or uses an attribute that is off.
        """
        from ml import registry

        previous = registry.previous_champion(self.uri, name)
        self._require_switched_on(registry.resolve(self.uri, name, previous))
        return registry.rollback(self.uri, name, reason, approver)

    def promote(self, name: str, version: int, reason: str, approver: str) -> ModelRef:
        """Make a version champion.

        Raises:
            ModelError: it does not exist or load, is held, or uses an attribute that is off.
        """
        from ml import registry

        self._require_switched_on(registry.resolve(self.uri, name, version))
        return registry.promote(self.uri, name, version, reason, approver)

    def _require_switched_on(self, ref: ModelRef) -> None:
        """Refuse a version that was given a protected attribute which is switched off now."""
        from ml import registry
        from ml.features import protected_in

        used = protected_in(ref.inputs)
        off = ", ".join(a for a in used if a not in self.protected_features)
        if not off:
            return
        needed = ",".join(sorted({*used, *self.protected_features}))
        raise registry.ModelError(
            f"model {ref.name!r} version {ref.version} uses {off}, now switched off, so it must "
            "not serve. Promote a version without (python -m orchestration champion --promote "
            "VERSION --reason WHY) or train one (python -m orchestration train); only if the shop "
            f"may use it again, set HOLDFAST_PROTECTED_FEATURES={needed}"
        )

    def sign(self, name: str, version: int, reason: str, approver: str) -> ModelRef:
        """Record that a person found no leak in a version that was held."""
        from ml import registry

        return registry.sign_leak_review(self.uri, name, version, approver, reason)

    def history(self, name: str) -> list[ChampionMove]:
        """Return every change of champion, oldest first."""
        from ml import registry

        return registry.champion_history(self.uri, name)

    def register_segments(
        self,
        name: str,
        fitted: SegmentModel,
        points: CutPoints,
        day: date,
        tags: Mapping[str, str],
    ) -> ModelRef:
        """Register a segmentation: K-means, what its clusters mean, and the cut-points."""
        from ml import registry

        document = {"clusters": fitted.metadata, "cut_points": json.loads(points.to_json())}
        return registry.register_estimator(
            self.uri,
            name,
            fitted.estimator,
            run_name=f"segments {day}",
            tags={**tags, "recipe": "kmeans", "last_matured_date": day.isoformat()},
            metrics={"cluster_count": float(fitted.metadata["k"])},
            documents={_SEGMENTS_FILE: json.dumps(document, sort_keys=True)},
            reason="segments are refitted on demand; ids and names carry over",
        )

    def segments(self, version: str | None = None) -> Segments | None:
        """Return the segmentation in force, or of a version; None where none is registered."""
        from ml import registry
        from ml.clustering import SegmentModel
        from ml.rfm import CutPoints

        try:
            ref = registry.resolve(self.uri, SEGMENT_MODEL, version or registry.CHAMPION)
        except registry.NoSuchModelError:
            if version is not None:
                raise
            return None
        document = json.loads(registry.load_document(ref, _SEGMENTS_FILE))
        return Segments(
            str(ref.version),
            SegmentModel(registry.load(ref), document["clusters"]),
            CutPoints.from_json(json.dumps(document["cut_points"])),
        )

    def uplift(self, campaign_id: str, arm: str) -> Uplift | None:
        """Return what was learnt from one arm of a campaign; None where nothing was yet."""
        from ml import registry

        try:
            ref = registry.resolve(self.uri, uplift_model(campaign_id, arm))
        except registry.NoSuchModelError:
            return None
        decided = json.loads(registry.load_document(ref, _UPLIFT_FILE))
        if decided.get("lesson") != UPLIFT_LESSON:  # learnt in another way: learn again
            return None
        of_profit = registry.resolve(
            self.uri, f"{uplift_model(campaign_id, arm)}_profit", str(decided["profit_version"])
        )
        return Uplift(ref, decided["promote"], decided["reason"], decided["table"], of_profit)

    def register_uplift(
        self, campaign_id: str, arm: str, learned: Learned, day: date, tags: Mapping[str, str]
    ) -> Uplift:
        """Keep the best learner of one arm of a campaign, with the decision whether to use it."""
        from ml import registry

        compared, decision = learned.comparison, learned.decision
        best, name = compared.best_candidate, uplift_model(campaign_id, arm)
        marks = {**tags, "recipe": best, "last_matured_date": day.isoformat()}
        of_profit = registry.register_estimator(
            self.uri,
            f"{name}_profit",
            learned.profit_model,
            run_name=f"uplift {campaign_id} {arm} profit",
            tags=marks,
            metrics={"profit_per_customer": learned.money.entry(best).value},
            documents={},
            reason=learned.money.decision.reason,
        )
        document = {
            "promote": decision.promote,
            "reason": decision.reason,
            "table": f"{compared.table()}\n\n{learned.money.table()}",
            "profit_version": of_profit.version,
            "lesson": UPLIFT_LESSON,
        }
        registry.register_estimator(
            self.uri,
            name,
            learned.model,
            run_name=f"uplift {campaign_id} {arm}",
            tags=marks,
            metrics={"qini": compared.entry(best).value, "unit_count": float(compared.unit_count)},
            documents={_UPLIFT_FILE: json.dumps(document, sort_keys=True)},
            reason=decision.reason,
        )
        found = self.uplift(campaign_id, arm)
        assert found is not None
        return found

    def value(self, version: str | None = None) -> tuple[ModelRef, CustomerValueModel] | None:
        """Return the model of purchases and value in force, or of a version; None without one."""
        from ml import registry

        try:
            ref = registry.resolve(self.uri, VALUE_MODEL, version or registry.CHAMPION)
        except registry.NoSuchModelError:
            if version is not None:
                raise
            return None
        return ref, registry.load(ref)

    def value_champion(self) -> ValueChampion | None:
        """Return the model of value in force as a comparison needs it, or None without one."""
        from ml.value_training import ValueChampion

        found = self.value()
        if found is None:
            return None
        ref, model = found
        prefix = "recipe_purchase_"
        recipes = {
            tag.removeprefix(prefix).removesuffix("d"): recipe
            for tag, recipe in ref.tags.items()
            if tag.startswith(prefix)
        }
        return ValueChampion(ref.version, ref.recipe, recipes, ref.last_matured_date, model)

    def register_value(self, result: ValueResult, tags: Mapping[str, str]) -> ModelRef:
        """Log and register the model of purchases and value, with all that was measured of it."""
        from ml import plots, registry
        from ml.model_card import value_card

        document = {
            "as_of": result.as_of.isoformat(),
            "origins": {name: [str(d) for d in days] for name, days in result.origins.items()},
            "intervals": {
                name: [found.estimate, found.low, found.high]
                for name, found in result.intervals.items()
            },
            "deciles": {w: table.to_dict("list") for w, table in result.deciles.items()},
        }
        ref = registry.register_estimator(
            self.uri,
            VALUE_MODEL,
            result.model,
            run_name=f"customer value {result.as_of}",
            tags={
                **tags,
                "recipe": result.recipe,
                "last_matured_date": result.last_matured_date.isoformat(),
                "compared_out_of_time": str(result.is_compared).lower(),
                "decision": "promote" if result.promote else "keep",
                "decision_reason": result.reason,
                "data_digest": result.data_digest,
                "training_row_count": str(result.training_row_count),
                **{f"recipe_purchase_{w}d": name for w, name in result.purchase_recipes.items()},
            },
            metrics=result.metrics,
            documents={_VALUE_FILE: json.dumps(document, sort_keys=True)},
            reason=result.reason,
            is_champion=result.promote,
        )
        if result.spent_alpha is not None:
            registry.record_spent(ref, result.as_of, result.attempt, result.spent_alpha)
        pictures = {
            f"deciles_{window}d.png": plots.decile_plot(table, window)
            for window, table in result.deciles.items()
        }
        registry.log_pictures(ref, pictures)
        registry.keep_card(ref, value_card(result, ref.name, ref.version, ref.sha256))
        return ref

    def link(self, ref: ModelRef, url: str) -> str:
        """Return the address of the run behind a version in the MLflow UI at `url`."""
        from mlflow import MlflowClient

        run = MlflowClient(self.uri, self.uri).get_run(ref.run_id)
        return f"{url}/#/experiments/{run.info.experiment_id}/runs/{ref.run_id}"

    def candidates(self, ref: ModelRef) -> list[tuple[str, dict[str, float]]]:
        """Return the candidates of the training behind a version with their metrics, best first."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri, self.uri)
        experiment = client.get_run(ref.run_id).info.experiment_id
        runs = client.search_runs(
            [experiment], f"tags.`mlflow.parentRunId` = '{ref.run_id}'", max_results=50
        )
        found = [(run.info.run_name or "", dict(run.data.metrics)) for run in runs]
        return sorted(found, key=lambda pair: pair[1]["log_loss"])

    def describe(self, result: TrainingResult | Fallback, ref: ModelRef) -> dict[str, Any]:
        """Return what Dagster shows of a training: the decision, and the comparison as a table.

        Of a rule that was compared with nothing it says so, and shows no metrics.
        """
        import dagster as dg

        from ml.model_card import candidate_lines, fairness_lines
        from ml.training import Fallback

        decided = {
            "as_of": result.as_of.isoformat(),
            "chosen": result.chosen,
            "decision": "promoted" if result.decision.promote else "kept the champion",
            "reason": result.decision.reason,
            "model_version": ref.version,
            "training_rows": result.training_row_count,
            "compared_out_of_time": not isinstance(result, Fallback),
        }
        if isinstance(result, Fallback):
            return decided
        chosen = result.candidate(result.chosen)
        return {
            **decided,
            **{
                name: round(float(chosen.metrics[name]), 4)
                for name in ("log_loss", "roc_auc", "average_precision", "brier", "ece")
            },
            "candidates": dg.MetadataValue.md("\n".join(candidate_lines(result))),
            "fairness": dg.MetadataValue.md("\n".join(fairness_lines(result))),
        }
