"""Where cohorts go: files, or a tool that listens on HTTP, behind one small interface.

What belongs here: moving parcels of rows to a target, so that each arrives once however often it is
tried, and saying what arrived. What does not: who may be in a parcel (`ml/campaigns/export.py`).

A parcel is frozen before it travels: the same rows in the same order under one id. So a delivery
that was interrupted goes on with the batch that was not acknowledged, and a batch that arrived
twice carries the same `Idempotency-Key`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from orchestration.resources.home import HomeError, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class DeliveryError(HomeError):
    """A parcel that did not arrive whole; what was acknowledged is not sent again."""


@dataclass(frozen=True)
class Parcel:
    """The rows for one channel of one export.

    `withheld` are positions of rows that may not leave any more (consent withdrawn since the
    parcel was frozen). They keep their place, so that batches stay what they were.
    """

    export_id: str  # of the approved selection
    campaign_id: str
    channel: str
    rows: pd.DataFrame
    withheld: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        """Without the rows: they are people."""
        return f"Parcel({self.export_id}, {self.channel}, {len(self.rows)} rows)"


@dataclass
class Progress:
    """Which batches of a parcel have been acknowledged; `save` is called after each."""

    acknowledged: dict[int, dict[str, Any]] = field(default_factory=dict)  # number -> what it was
    save: Callable[[], None] = lambda: None


class Target(Protocol):
    """Something that takes parcels."""

    @property
    def name(self) -> str:
        """What the receipt calls it; no secret in it."""

    def send(self, parcel: Parcel, progress: Progress) -> list[dict[str, Any]]:
        """Hand the parcel over; return what the receipt says of each part of it.

        Raises:
            DeliveryError: it did not arrive whole; sending it again goes on where it stopped.
        """


@dataclass(frozen=True)
class FileTarget:
    """A folder: one file per channel and format, readable by its owner alone."""

    folder: Path
    formats: tuple[str, ...] = ("csv", "parquet", "ndjson")

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def send(self, parcel: Parcel, progress: Progress) -> list[dict[str, Any]]:
        """Write `<channel>.<format>`; each is there whole or not at all."""
        from ml.campaigns.export import FORMATS

        parts = []
        for kind in self.formats:
            content = FORMATS[kind](parcel.rows)
            path = self.folder / f"{parcel.channel}.{kind}"
            write_atomically(path, content, mode=0o600)  # names and addresses
            digest = hashlib.sha256(content).hexdigest()
            parts.append({"file": path.name, "rows": len(parcel.rows), "sha256": digest})
        return parts


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed body goes to the address that was approved, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing; the answer is an error."""


@dataclass(frozen=True)
class HttpTarget:
    """A tool that takes batches of NDJSON by POST.

    Each request carries `Idempotency-Key` (export, channel and number of the batch) and
    `X-Holdfast-Signature: t=<seconds>,v1=<hex>`, the HMAC-SHA256 of "<seconds>.<body>" under the
    shared secret. 429, 5xx and lost connections are tried again, at twice the wait each time (or
    after what `Retry-After` says); any other refusal ends the delivery at once.
    """

    url: str
    secret: bytes
    rows_per_batch: int = 500
    requests_per_second: float = 5.0
    attempts: int = 5
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0
    timeout_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise DeliveryError(
                f"{self.name}: customers leave this machine by https only; http is for 127.0.0.1"
            )
        if len(self.secret) < 16:
            raise DeliveryError(
                "the secret that signs a delivery needs at least 16 bytes; set "
                "HOLDFAST_ACTIVATION_SECRET to what the receiving tool knows"
            )

    def __repr__(self) -> str:
        """Without the secret."""
        return f"HttpTarget({self.name})"

    @property
    def name(self) -> str:
        """The address without what may be a credential."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"

    def send(self, parcel: Parcel, progress: Progress) -> list[dict[str, Any]]:
        """Post the batches that were not acknowledged yet, in order."""
        from ml.campaigns.export import ndjson_bytes

        parts: list[dict[str, Any]] = []
        last: float | None = None
        for number, start in enumerate(range(0, len(parcel.rows), self.rows_per_batch)):
            end = min(start + self.rows_per_batch, len(parcel.rows))
            rows = parcel.rows.iloc[[n for n in range(start, end) if n not in parcel.withheld]]
            body = ndjson_bytes(rows)
            key = f"{parcel.export_id}-{parcel.channel}-{number}"
            if body and number not in progress.acknowledged:
                if last is not None:
                    self.sleep(max(0.0, last + 1 / self.requests_per_second - self.clock()))
                last = self.clock()
                self._post(parcel, body, key)
                progress.acknowledged[number] = {
                    "batch": key,
                    "rows": len(rows),
                    "sha256": hashlib.sha256(body).hexdigest(),
                }
                progress.save()
            if number in progress.acknowledged:
                parts.append(progress.acknowledged[number])
        return parts

    def _post(self, parcel: Parcel, body: bytes, key: str) -> None:
        wait = self.first_wait_seconds
        for attempt in range(1, self.attempts + 1):
            problem, after = self._try(parcel, body, key)
            if problem is None:
                return
            if after is None or attempt == self.attempts:
                raise DeliveryError(
                    f"{self.name}: batch {key} was not taken ({problem}, {attempt} attempts); "
                    "what was acknowledged before is not sent again: run the same command again"
                )
            self.sleep(min(max(wait, after), self.longest_wait_seconds))
            wait *= 2
        raise AssertionError("unreachable")

    def _try(self, parcel: Parcel, body: bytes, key: str) -> tuple[str | None, float | None]:
        """Return what went wrong (None: nothing), and the least wait before another try, if any."""
        request = urllib.request.Request(
            self.url,
            data=body,
            method="POST",
            headers={
                "Content-Type": "application/x-ndjson",
                "Idempotency-Key": key,
                "X-Holdfast-Campaign": parcel.campaign_id,
                "X-Holdfast-Channel": parcel.channel,
                "X-Holdfast-Signature": sign(self.secret, body, int(time.time())),
            },
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout_seconds) as answer:
                answer.read()
            return None, None
        except urllib.error.HTTPError as error:
            with error:
                is_passing = error.code == 429 or error.code >= 500
                asked = error.headers.get("Retry-After", "")
            after = float(asked) if asked.isdigit() else 0.0
            return f"HTTP {error.code}", after if is_passing else None
        except OSError as error:  # refused, reset, timed out: URLError is one
            return str(getattr(error, "reason", error)), 0.0


def sign(secret: bytes, body: bytes, seconds: int) -> str:
    """Return the signature of a body sent at a time (seconds since 1970)."""
    digest = hmac.new(secret, f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def is_signed(secret: bytes, body: bytes, signature: str, now: int, tolerance: int = 300) -> bool:
    """Return whether a signature is that of the body, and at most `tolerance` seconds old.

    What a receiver does with each request; written down here so that both sides can be tested.
    """
    parts: Mapping[str, str] = dict(
        part.split("=", 1) for part in signature.split(",") if "=" in part
    )
    seconds = parts.get("t", "")
    if not seconds.isdigit() or abs(now - int(seconds)) > tolerance:
        return False
    return hmac.compare_digest(sign(secret, body, int(seconds)), signature)
