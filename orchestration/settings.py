"""The one reader of the environment.

What belongs here: every setting that an operator may change (`HOLDFAST_*`), and the switches that
keep the libraries from phoning home. What does not: facts about a shop, which are fixed once its
data is in (`orchestration/resources/home.py`).
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Measured per library (docs/decisions/0009-telemetry-off.md): MLflow heeds only the word "true",
# and contacts its server at import; Dagster reads dagster.yaml; dbt reads its flag as well.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DBT_ENGINE_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_SCHEMA_DETAILS": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    "TQDM_DISABLE": "1",
}


Protected = Literal["gender", "age", "country"]  # ml.features.PROTECTED


class Settings(BaseSettings):
    """Everything an operator may set, with defaults that work on one laptop."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="ignore")

    home: Path = Field(Path(".holdfast"), description="the folder of this shop")
    env: Literal["dev", "prod"] = Field("dev", description="schedules exist only in prod")
    schedules: bool = Field(False, description="`make up` asks for schedules on a dev home")
    secret: SecretStr | None = Field(
        None, description="key of the pseudonyms; default: the home's own file, made at init"
    )
    activation_secret: SecretStr | None = Field(
        None, description="signs what is sent to a tool over HTTP; the tool knows it, too"
    )
    max_bad_share: float = Field(0.01, ge=0, le=1, description="bad rows a file may have")
    margin_rate: float = Field(
        0.40, gt=0, lt=1, description="margin assumed where the shop delivers no unit costs"
    )
    contact_amount: float = Field(1.0, ge=0, description="cost of contacting one customer")
    incentive_amount: float = Field(
        10.0, ge=0, description="cost of what a contact offers, to whoever buys"
    )
    accept_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of those who would leave whom a contact keeps; default: as the shop's "
        "campaigns measured it, and 0.3 before they have",
    )
    at_risk_capacity: int = Field(500, gt=0, description="customers on the daily at-risk list")
    training_step_days: int = Field(14, gt=0, description="days between training snapshots")
    training_max_rows: int = Field(60_000, gt=0, description="rows used for training at most")
    training_origins: int = Field(3, gt=0, description="out-of-time test snapshots")
    protected_features: Annotated[tuple[Protected, ...], NoDecode] = Field(
        (), description="of gender, age, country, by commas: those a churn model may be given"
    )
    dbt_threads: int = Field(
        2, gt=0, description="models that dbt runs side by side, and threads of other queries"
    )
    mlflow_url: str = Field("http://127.0.0.1:5000", description="where links to MLflow lead")
    dagster_url: str = Field("http://127.0.0.1:3000", description="where links to Dagster lead")
    seed: int = Field(7, description="seed of every random choice in training")
    today: date | None = Field(None, description="the last partition of an open home, for tests")

    @field_validator("protected_features", mode="before")
    @classmethod
    def _by_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @property
    def has_schedules(self) -> bool:
        """Whether schedules are registered at all; a schedule that is not there cannot fire."""
        return self.env == "prod" or self.schedules


def wrong_settings(error: ValidationError) -> str:
    """Return what is wrong with `Settings`, one a line: HOLDFAST_SEED: a valid integer, not ..."""
    lines = []
    for found in error.errors():
        name = str(found["loc"][0])
        bounds = {type(of).__name__: of for of in Settings.model_fields[name].metadata}
        said = [
            f"{word} {getattr(bounds[kind], kind.lower())}"
            for kind, word in {
                "Ge": "at least",
                "Gt": "above",
                "Le": "at most",
                "Lt": "below",
            }.items()
            if kind in bounds
        ]
        wanted = " and ".join(said) or found["msg"].removeprefix("Input should be ")
        if bounds.keys() == {"Ge", "Le"}:
            wanted = f"between {bounds['Ge'].ge} and {bounds['Le'].le}"
        variable = f"{Settings.model_config['env_prefix']}{name.upper()}"
        lines.append(f"{variable}: {wanted}, not {found['input']!r}")
    return "\n".join(lines)


def silence_libraries() -> None:
    """Switch off the telemetry of every library, in this process and its children."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
