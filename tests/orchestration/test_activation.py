"""What travels arrives once, signed, in its batches, however often the way is broken."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from orchestration.resources.activation import (
    DeliveryError,
    FileTarget,
    HttpTarget,
    Parcel,
    Progress,
    is_signed,
)

SECRET = b"a-secret-of-both-sides"
OFFERS = ["=1+1", None] * 12 + ["é"]
ROWS = pd.DataFrame({"customer_id": [f"C{i}" for i in range(25)], "offer": OFFERS})
PARCEL = Parcel("abc", "winback", "email", ROWS)


class Tool:
    """A tool on 127.0.0.1 that answers as it is told, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []  # of the next requests; then 200
        self.requests: list[tuple[dict[str, str], bytes]] = []
        tool = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                tool.requests.append((dict(self.headers), body))
                status, headers = tool.answers.pop(0) if tool.answers else (200, {})
                if status == 0:  # the connection breaks after the body was read
                    self.connection.close()
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/cohorts"

    @property
    def taken(self) -> dict[str, list[dict[str, Any]]]:
        """Rows by idempotency key, each key counted once, as a tool that deduplicates has them."""
        return {
            headers["Idempotency-Key"]: [json.loads(line) for line in body.splitlines()]
            for headers, body in self.requests
        }


@pytest.fixture
def tool() -> Iterator[Tool]:
    made = Tool()
    yield made
    made.server.shutdown()
    made.server.server_close()


def _target(tool: Tool, waits: list[float] | None = None, **fields: Any) -> HttpTarget:
    slept = waits if waits is not None else []
    return HttpTarget(tool.url, SECRET, rows_per_batch=10, sleep=slept.append, **fields)


def test_batches_are_signed_and_hold_every_row_once(tool: Tool) -> None:
    parts = _target(tool).send(PARCEL, Progress())
    assert [part["rows"] for part in parts] == [10, 10, 5]
    assert list(tool.taken) == ["abc-email-0", "abc-email-1", "abc-email-2"]
    rows = [row for batch in tool.taken.values() for row in batch]
    assert rows == [
        {"customer_id": c, "offer": None if pd.isna(o) else o}
        for c, o in ROWS.itertuples(index=False)
    ]
    now = int(time.time())
    for headers, body in tool.requests:
        signature = headers["X-Holdfast-Signature"]
        assert is_signed(SECRET, body, signature, now)
        assert not is_signed(SECRET, body + b" ", signature, now)
        assert not is_signed(b"another-secret-of-16", body, signature, now)
        assert not is_signed(SECRET, body, signature, now + 301), "an old request is not replayed"
        assert not is_signed(SECRET, body, "v1=00", now)


def test_what_passes_is_tried_again_with_growing_waits_under_one_key(tool: Tool) -> None:
    tool.answers = [(503, {}), (0, {}), (429, {"Retry-After": "7"}), (200, {})]
    waits: list[float] = []
    _target(tool, waits).send(PARCEL, Progress())
    keys = [headers["Idempotency-Key"] for headers, _ in tool.requests]
    assert keys == ["abc-email-0"] * 4 + ["abc-email-1", "abc-email-2"]
    assert waits[:3] == [0.5, 1.0, 7.0]
    assert len({body for headers, body in tool.requests[:4]}) == 1


@pytest.mark.parametrize("status", [400, 401, 302])
def test_a_refusal_is_not_argued_with_and_no_redirect_is_followed(tool: Tool, status: int) -> None:
    tool.answers = [(status, {"Location": "http://127.0.0.1:1/elsewhere"})]
    with pytest.raises(DeliveryError, match=f"HTTP {status}, 1 attempts"):
        _target(tool).send(PARCEL, Progress())
    assert len(tool.requests) == 1


def test_an_interrupted_delivery_goes_on_where_it_stopped(tool: Tool) -> None:
    saved: list[int] = []
    progress = Progress()
    progress.save = lambda: saved.append(len(progress.acknowledged))
    tool.answers = [(200, {})] + [(500, {})] * 3
    with pytest.raises(DeliveryError, match="run the same command again"):
        _target(tool, attempts=3).send(PARCEL, progress)
    assert saved == [1]
    sent = len(tool.requests)
    parts = _target(tool).send(PARCEL, progress)
    again = [headers["Idempotency-Key"] for headers, _ in tool.requests[sent:]]
    assert again == ["abc-email-1", "abc-email-2"]
    assert [part["rows"] for part in parts] == [10, 10, 5]
    assert sum(map(len, tool.taken.values())) == len(ROWS)


def test_who_may_not_be_contacted_any_more_is_withheld_and_batches_stay(tool: Tool) -> None:
    progress = Progress()
    tool.answers = [(200, {}), (400, {})]
    with pytest.raises(DeliveryError):
        _target(tool).send(PARCEL, progress)
    withheld = frozenset({3, 11, *range(20, 25)})
    parts = _target(tool).send(Parcel("abc", "winback", "email", ROWS, withheld), progress)
    assert [part["rows"] for part in parts] == [10, 9], "the first had left, the last is empty"
    assert [row["customer_id"] for row in tool.taken["abc-email-1"]] == [
        f"C{i}" for i in range(10, 20) if i != 11
    ]


def test_requests_keep_their_distance(tool: Tool) -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    target = HttpTarget(
        tool.url, SECRET, rows_per_batch=5, requests_per_second=4, sleep=sleep, clock=lambda: now[0]
    )
    target.send(PARCEL, Progress())
    assert waits == [0.25] * 4


@pytest.mark.parametrize(
    "url", ["http://tool.example/x", "ftp://127.0.0.1/x", "file:///etc/passwd"]
)
def test_customers_leave_the_machine_by_https_only(url: str) -> None:
    with pytest.raises(DeliveryError, match="https only"):
        HttpTarget(url, SECRET)


def test_secrets_stay_secret() -> None:
    with pytest.raises(DeliveryError, match="HOLDFAST_ACTIVATION_SECRET"):
        HttpTarget("https://tool.example/x", b"short")
    target = HttpTarget("https://user:pass@tool.example:8443/x?token=1", SECRET)
    assert target.name == "https://tool.example:8443/x"
    assert "secret" not in repr(target)
    assert "pass" not in repr(target)
    assert "C1" not in repr(PARCEL)


def test_files_are_whole_and_their_owners_alone(tmp_path: Path) -> None:
    parts = FileTarget(tmp_path).send(PARCEL, Progress())
    assert [part["file"] for part in parts] == ["email.csv", "email.parquet", "email.ndjson"]
    for part in parts:
        assert (tmp_path / part["file"]).stat().st_mode & 0o077 == 0
    assert pd.read_parquet(tmp_path / "email.parquet")["offer"].iloc[0] == "=1+1"
    assert '"\'=1+1"' in (tmp_path / "email.csv").read_text()
