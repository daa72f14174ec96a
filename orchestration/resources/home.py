"""A home: one folder, one shop, one currency, one environment.

What belongs here: where things lie in a home, and the facts about the shop that are fixed once
data is in (`home.json`). What does not: how the things are read and written (its neighbours).
"""

from __future__ import annotations

import json
import os
import secrets
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT_VERSION = 2


class HomeError(Exception):
    """A home that is absent, unreadable, or of another format; the message says what to do."""


@dataclass(frozen=True)
class Shop:
    """The facts about a shop that are fixed once its data is in."""

    shop_timezone: str
    currency: str
    first_day: date
    last_day: date | None = None  # None: a live shop
    active_window_days: int = 180
    horizon_days: int = 90
    consent_without_records: str = "denied"  # or "granted": what an absent consent record means
    source: str = "contract"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.shop_timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise HomeError(f"unknown time zone {self.shop_timezone!r}") from error
        if self.last_day is not None and self.last_day < self.first_day:
            raise HomeError(f"last day {self.last_day} is before first day {self.first_day}")
        if self.consent_without_records not in ("denied", "granted"):
            raise HomeError("consent_without_records is 'denied' or 'granted'")
        if self.active_window_days < 1 or self.horizon_days < 1:
            raise HomeError("active_window_days and horizon_days are at least 1")

    def days(self, start: date, end: date) -> list[date]:
        """Return the days from `start` to `end`, both included; raise where the shop has none."""
        if end < start:
            raise HomeError(f"the range {start} .. {end} ends before it begins")
        if start < self.first_day or (self.last_day is not None and end > self.last_day):
            raise HomeError(
                f"{start} .. {end} is outside this shop's days, "
                f"{self.first_day} .. {self.last_day or 'today'}"
            )
        return [start + timedelta(days=n) for n in range((end - start).days + 1)]


@dataclass(frozen=True)
class Home:
    """The places inside one home folder."""

    root: Path
    shop: Shop

    @property
    def landing(self) -> Path:
        """What the shop delivers, untouched."""
        return self.root / "landing"

    @property
    def vault(self) -> Path:
        """The only place for names, e-mail addresses, phone numbers and the shop's own ids."""
        return self.root / "vault.sqlite"

    @property
    def warehouse(self) -> Path:
        """DuckDB, private to sources and mart."""
        return self.root / "warehouse.duckdb"

    @property
    def staging(self) -> Path:
        """Candidates, one file each, until published."""
        return self.root / "staging"

    @property
    def lake(self) -> Path:
        """Published Delta tables."""
        return self.root / "lake"

    @property
    def catalog(self) -> Path:
        """Audit records and the index of publications."""
        return self.root / "catalog.sqlite"

    @property
    def campaigns(self) -> Path:
        """One readable file per campaign."""
        return self.root / "campaigns"

    @property
    def exports(self) -> Path:
        """Files for people and their tools."""
        return self.root / "exports"

    @property
    def data_docs(self) -> Path:
        """Browsable verdicts of Great Expectations."""
        return self.root / "data_docs"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME of this home."""
        return self.root / "dagster"

    @property
    def dbt_target(self) -> Path:
        """The manifest and the logs of dbt."""
        return self.root / "dbt"

    @property
    def mlflow_uri(self) -> str:
        """The MLflow tracking and registry store."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """The MLflow artifact root."""
        return self.root / "mlartifacts"

    @staticmethod
    def exists(root: Path) -> bool:
        """Whether `root` holds a home."""
        return (root / "home.json").is_file()

    @staticmethod
    def create(root: Path, shop: Shop) -> Home:
        """Make a home, or open the one that is there if it is of the same shop.

        Landing files and exports hold names and addresses, so the folder is its owner's alone.

        Raises:
            HomeError: there is a home of another shop in that folder.
        """
        root = root.resolve()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file_lock(root / ".init.lock"):
            if Home.exists(root):
                home = Home.open(root)
                if home.shop != shop:
                    raise HomeError(
                        f"{root} is the home of another shop ({home.shop}); choose another folder "
                        "with HOLDFAST_HOME, or delete that one"
                    )
                return home
            root.chmod(0o700)  # it may have been there before
            home = Home(root, shop)
            for folder in (home.landing, home.staging, home.lake, home.campaigns, home.exports):
                folder.mkdir(exist_ok=True)
            facts = {"format_version": FORMAT_VERSION, **asdict(shop)}
            write_atomically(
                root / "home.json", json.dumps(facts, default=str, indent=2).encode() + b"\n"
            )
        return home

    @staticmethod
    def open(root: Path) -> Home:
        """Open a home, bringing an older format forward.

        Raises:
            HomeError: no home there, or one written by a newer Holdfast.
        """
        root = root.resolve()
        path = root / "home.json"
        if not path.is_file():
            raise HomeError(f"there is no home at {root}; `make demo` makes one")
        facts = json.loads(path.read_text())
        version = facts.pop("format_version", None)
        if version not in range(1, FORMAT_VERSION + 1):
            raise HomeError(
                f"{path} has format {version}; this Holdfast reads format {FORMAT_VERSION}"
            )
        if version < FORMAT_VERSION:
            _bring_forward(root, version)
        known = {field.name for field in fields(Shop)}
        unknown = sorted(set(facts) - known)
        if unknown:
            raise HomeError(f"{path}: unknown settings {unknown}")
        for name in ("first_day", "last_day"):
            facts[name] = date.fromisoformat(facts[name]) if facts.get(name) else None
        return Home(root, Shop(**facts))

    def secret(self, override: str | None = None, first: str | None = None) -> bytes:
        """Return the key of the pseudonyms: `override`, or this home's own, made on first use.

        override: HOLDFAST_SECRET; it is never written to disk. That it is the key which the home
        began with is checked by the vault. first: what the home's own is at first use, in place of
        a random one.

        Raises:
            HomeError: the home began with HOLDFAST_SECRET, and it is not set.
        """
        if override:
            return override.encode()
        path = self.root / "secret.key"
        with file_lock(self.root / ".init.lock"):
            if not path.is_file():
                if self.vault.is_file():
                    raise HomeError(
                        f"{self.vault} is there and {path} is not: set HOLDFAST_SECRET to the "
                        "secret that this home began with"
                    )
                write_atomically(path, (first or secrets.token_hex(32)).encode(), mode=0o600)
            return path.read_bytes()


def _bring_forward(root: Path, version: int) -> None:
    """Change what an older version laid out otherwise; doing it twice does no harm.

    2: `lake/campaign_outcomes` held readings, and holds outcomes of customers now. The old table is
    kept beside it.
    """
    with file_lock(root / ".migration.lock"):
        if version < 2:
            old, kept = root / "lake" / "campaign_outcomes", root / "lake" / "campaign_outcomes_v1"
            if old.is_dir() and not kept.exists():
                old.rename(kept)
        facts = json.loads((root / "home.json").read_text())
        facts["format_version"] = FORMAT_VERSION
        write_atomically(root / "home.json", json.dumps(facts, indent=2).encode() + b"\n")


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` between processes; the operating system frees it."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a whole file or none: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # a crashed writer's, of the same number, has its own mode
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
