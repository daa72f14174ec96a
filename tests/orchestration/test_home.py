"""Homes: made once, of one shop, in one format."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from orchestration.resources.home import (
    FORMAT_VERSION,
    Home,
    HomeError,
    Shop,
    file_lock,
    write_atomically,
)
from orchestration.resources.vault import Vault, VaultError

SHOP = Shop("Europe/Berlin", "EUR", date(2024, 1, 1), date(2024, 12, 31))
FORK = multiprocessing.get_context("fork")


def test_what_was_made_is_what_is_opened(tmp_path: Path) -> None:
    made = Home.create(tmp_path, SHOP)
    assert Home.open(tmp_path) == made
    assert made.shop == SHOP
    assert all(p.is_dir() for p in (made.landing, made.staging, made.lake, made.exports))


def test_a_live_shop_has_no_last_day(tmp_path: Path) -> None:
    Home.create(tmp_path, replace(SHOP, last_day=None))
    assert Home.open(tmp_path).shop.last_day is None


def test_making_it_again_opens_it(tmp_path: Path) -> None:
    first = Home.create(tmp_path, SHOP)
    (first.landing / "orders").mkdir()
    assert Home.create(tmp_path, SHOP) == first
    assert (first.landing / "orders").is_dir()


@pytest.mark.parametrize(
    "change",
    [
        {"currency": "GBP"},
        {"shop_timezone": "UTC"},
        {"first_day": date(2023, 1, 1)},
        {"horizon_days": 30},
        {"consent_without_records": "granted"},
    ],
)
def test_another_shop_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    Home.create(tmp_path, SHOP)
    with pytest.raises(HomeError, match="another shop"):
        Home.create(tmp_path, replace(SHOP, **change))  # type: ignore[arg-type]
    assert Home.open(tmp_path).shop == SHOP


def test_no_home_there(tmp_path: Path) -> None:
    assert not Home.exists(tmp_path)
    with pytest.raises(HomeError, match="make demo"):
        Home.open(tmp_path)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, None, "1"])
def test_a_format_that_is_not_ours_is_refused_by_number(tmp_path: Path, version: object) -> None:
    home = Home.create(tmp_path, SHOP)
    facts = json.loads((home.root / "home.json").read_text())
    facts["format_version"] = version
    (home.root / "home.json").write_text(json.dumps(facts))
    with pytest.raises(HomeError, match=rf"format {version}.*reads format {FORMAT_VERSION}"):
        Home.open(tmp_path)


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    home = Home.create(tmp_path, SHOP)
    facts = json.loads((home.root / "home.json").read_text())
    (home.root / "home.json").write_text(json.dumps({**facts, "horizont_days": 30}))
    with pytest.raises(HomeError, match="horizont_days"):
        Home.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shop_timezone": "Europe/Atlantis"}, "Europe/Atlantis"),
        ({"shop_timezone": "../../etc/passwd"}, "unknown time zone"),
        ({"last_day": date(2023, 12, 31)}, "before first day"),
        ({"horizon_days": 0}, "at least 1"),
        ({"active_window_days": -1}, "at least 1"),
        ({"consent_without_records": "maybe"}, "'denied' or 'granted'"),
    ],
)
def test_a_shop_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(HomeError, match=message):
        replace(SHOP, **change)  # type: ignore[arg-type]


def test_days_of_a_shop() -> None:
    days = SHOP.days(date(2024, 2, 28), date(2024, 3, 1))
    assert days == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    assert SHOP.days(SHOP.first_day, SHOP.first_day) == [SHOP.first_day]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (date(2024, 2, 2), date(2024, 2, 1), "ends before it begins"),
        (date(2023, 12, 31), date(2024, 1, 1), "outside this shop's days, 2024-01-01"),
        (date(2024, 12, 31), date(2025, 1, 1), "outside this shop's days"),
    ],
)
def test_days_that_the_shop_does_not_have(start: date, end: date, message: str) -> None:
    with pytest.raises(HomeError, match=message):
        SHOP.days(start, end)


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home.create(tmp_path, SHOP)
    secret = home.secret()
    assert len(secret) >= 32
    assert home.secret() == secret
    assert stat.S_IMODE((home.root / "secret.key").stat().st_mode) == 0o600


def test_a_secret_that_is_given_is_never_written(tmp_path: Path) -> None:
    home = Home.create(tmp_path, SHOP)
    given = "given-by-the-environment"
    assert home.secret(given) == given.encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(given.encode() in path.read_bytes() for path in files)
    assert not (home.root / "secret.key").exists()


def test_a_wrong_or_a_missing_secret_is_told(tmp_path: Path) -> None:
    home = Home.create(tmp_path, SHOP)
    Vault(home.vault, home.secret("given-by-the-environment"))
    with pytest.raises(VaultError, match="another secret"):
        Vault(home.vault, home.secret("another-environment"))
    with pytest.raises(HomeError, match="set HOLDFAST_SECRET"):
        home.secret()
    assert not (home.root / "secret.key").exists()


def test_a_home_may_begin_with_a_known_secret(tmp_path: Path) -> None:
    home = Home.create(tmp_path, SHOP)
    assert home.secret(first="of-a-demo-shop") == b"of-a-demo-shop"
    assert home.secret() == b"of-a-demo-shop"
    assert home.secret(first="of-another-demo") == b"of-a-demo-shop"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_home_is_its_owners_alone(tmp_path: Path, is_there: bool) -> None:
    root = tmp_path / "deep" / "home"
    if is_there:
        root.mkdir(parents=True, mode=0o755)
    Home.create(root, SHOP)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_two_homes_two_secrets(tmp_path: Path) -> None:
    one, two = (Home.create(tmp_path / name, SHOP).secret() for name in ("one", "two"))
    assert one != two


def _ask_for_secret(root: str, answers: multiprocessing.Queue[bytes]) -> None:
    answers.put(Home.create(Path(root), SHOP).secret())


def test_four_processes_agree_on_one_new_home(tmp_path: Path) -> None:
    answers: multiprocessing.Queue[bytes] = FORK.Queue()
    processes = [
        FORK.Process(target=_ask_for_secret, args=(str(tmp_path / "home"), answers))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    secrets = {answers.get(timeout=20) for _ in processes}
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(secrets) == 1


def _hold(path: str, log: str, seconds: float) -> None:
    with file_lock(Path(path)):
        with Path(log).open("a") as handle:
            handle.write(f"{os.getpid()} in\n")
        time.sleep(seconds)
        with Path(log).open("a") as handle:
            handle.write(f"{os.getpid()} out\n")


def test_a_lock_admits_one_process_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = (str(tmp_path / "sub" / "lock"), str(log), 0.05)
    processes = [FORK.Process(target=_hold, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 8
    for (entered, came), (left, went) in zip(lines[::2], lines[1::2], strict=True):
        assert entered == left
        assert (came, went) == ("in", "out")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "log"
    holder = FORK.Process(target=_hold, args=(str(lock), str(log), 60))
    holder.start()
    while not log.is_file() or "in" not in log.read_text():
        time.sleep(0.01)
    holder.kill()
    holder.join()
    started = time.monotonic()
    with file_lock(lock):
        assert time.monotonic() - started < 1


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "home.json"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"newer", mode=0o600)
    assert path.read_bytes() == b"newer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_home_of_format_1_is_brought_forward_once(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", SHOP)
    facts = json.loads((home.root / "home.json").read_text())
    (home.root / "home.json").write_text(json.dumps(facts | {"format_version": 1}))
    readings = home.lake / "campaign_outcomes" / "_delta_log"
    readings.mkdir(parents=True)
    assert Home.create(home.root, SHOP).shop == SHOP, "create opens, under its own lock"
    assert (home.lake / "campaign_outcomes_v1" / "_delta_log").is_dir()
    assert not (home.lake / "campaign_outcomes").exists()
    assert json.loads((home.root / "home.json").read_text())["format_version"] == FORMAT_VERSION
    readings.mkdir(parents=True)  # the new table
    Home.open(home.root)
    assert readings.is_dir(), "a home that is up to date is left alone"
