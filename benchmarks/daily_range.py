"""What one more day in a range costs, and where its seconds go.

    python benchmarks/daily_range.py [--customers 20000] [--short 2] [--long 12] [--rounds 3]
        [--origins 3]
    python benchmarks/daily_range.py --short 30 --long 90 --rounds 1 --singles 3

Makes a simulated shop with models, as the demo does, then runs a short and a long range of days
that were never run before, in turns, in this one process; between runs the home is put back as it
was. With `--singles` so many days are also run one by one, to set the long range against as many
runs of a day. On a shared machine seconds drift by half within minutes, so the numbers to compare
are the ratios of the two runs of a pair, not the seconds.

What belongs here: measuring. What does not: a verdict; CI has its own limits.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestration.resources.home import Home

FIRST_DAY, ENROLLED = date(2024, 1, 1), date(2025, 5, 31)
# What a run changes and a restore brings back. Raw tables stay: loading is not what is measured.
CHANGED = ("lake", "staging", "exports", "data_docs", "dagster", "catalog.sqlite")


class Stopwatch:
    """Seconds and calls per kind of work; work inside other work counts once, for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._open: list[float] = []  # seconds that inner work took, per level

    def wrap(self, owner: Any, name: str, kind: str) -> None:
        """Time every call of `owner.name` as `kind`."""
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._open.append(0.0)
            try:
                return inner(*args, **kwargs)
            finally:
                whole = time.perf_counter() - started
                self.seconds[kind] += whole - self._open.pop()
                self.calls[kind] += 1
                if self._open:
                    self._open[-1] += whole

        setattr(owner, name, timed)

    def reset(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()
        self.calls.clear()


def instrument(watch: Stopwatch) -> None:
    """Time the kinds of work that a day consists of, wherever they are called."""
    from dagster import DagsterInstance

    import ml.reasons
    import ml.scoring
    from expectations.docs import DocsSite
    from orchestration.defs.sources import assets
    from orchestration.resources.dbt import Dbt
    from orchestration.resources.lake import Lake
    from orchestration.resources.publishing import Publisher

    watch.wrap(assets, "take_in", "load")
    watch.wrap(Dbt, "build", "dbt")
    watch.wrap(Publisher, "stage", "stage")
    watch.wrap(Publisher, "audit_all", "audit")
    watch.wrap(Publisher, "publish_all", "publish")
    watch.wrap(DocsSite, "build", "data docs")
    watch.wrap(Lake, "read", "read the lake")
    watch.wrap(ml.scoring, "score", "score")
    watch.wrap(ml.reasons, "reasons", "reasons")
    watch.wrap(DagsterInstance, "handle_new_event", "Dagster events")
    watch.wrap(DagsterInstance, "create_run", "Dagster creates the run")


def make_home(root: Path, customers: int, last: date, origins: int = 0) -> Home:
    """Make a shop with a past, models, and days up to `last` that are loaded but were never run."""
    from orchestration.defs.sources.simulated import simulate_into
    from orchestration.resources.home import Home, Shop
    from orchestration.runs import run_history, run_training

    home = Home.create(root, Shop("Europe/Berlin", "EUR", FIRST_DAY, last, source="simulated"))
    for start, end in ((FIRST_DAY, ENROLLED), (ENROLLED + timedelta(days=1), last)):
        simulate_into(home, start, end + timedelta(days=1), customers, 7, lambda text: None)
    run_history(home, ENROLLED)
    run_training(home, ENROLLED, origins)
    return home


def measure(home: Home, days: int, watch: Stopwatch, after: date = ENROLLED) -> float:
    """Return the seconds of running the `days` days after a day."""
    from orchestration.runs import run_days

    watch.reset()
    started = time.perf_counter()
    with quiet():
        run_days(home, after + timedelta(days=1), after + timedelta(days=days))
    return time.perf_counter() - started


@contextlib.contextmanager
def restored(home: Home, kept: Path) -> Iterator[None]:
    """Put the home back as `kept` has it, in place: MLflow knows the models by absolute path."""
    try:
        yield
    finally:
        for name in CHANGED:
            for path in home.root.glob(f"{name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in kept.glob(f"{name}*"):
                target = home.root / path.name
                shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress off the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def keep(home: Home, kept: Path) -> None:
    """Copy what a run changes."""
    kept.mkdir()
    for name in CHANGED:
        for path in home.root.glob(f"{name}*"):
            shutil.copytree(path, kept / path.name) if path.is_dir() else shutil.copy2(path, kept)


def report(pairs: list[tuple[float, float]], shares: list[dict[str, float]], extra: int) -> str:
    """Return the result as text."""
    ratios = [long / short for short, long in pairs]
    per_day = [(long - short) / extra for short, long in pairs]
    lines = ["round   short s   long s   long/short   s per additional day"]
    lines += [
        f"{n:5}   {short:7.1f}  {long:7.1f}   {ratio:10.2f}   {day:20.2f}"
        for n, ((short, long), ratio, day) in enumerate(
            zip(pairs, ratios, per_day, strict=True), start=1
        )
    ]
    lines.append(
        f"median {'':>18}   {statistics.median(ratios):10.2f}   {statistics.median(per_day):20.2f}"
    )
    lines += ["", "share of an additional day (median over rounds; inner work counts once)"]
    kinds = sorted({kind for share in shares for kind in share})
    found = {k: statistics.median(share.get(k, 0.0) for share in shares) for k in kinds}
    for kind, share in sorted(found.items(), key=lambda item: -item[1]):
        lines.append(f"  {kind:26} {share:6.1%}")
    lines.append(f"  {'everything else':26} {1 - sum(found.values()):6.1%}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--short", type=int, default=2, help="days of the short range")
    parser.add_argument("--long", type=int, default=12, help="days of the long range")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--origins", type=int, default=0, help="test snapshots of the training")
    parser.add_argument("--singles", type=int, default=0, help="days to run one by one")
    args = parser.parse_args()
    if not 1 <= args.short < args.long:
        parser.error("--long must be more days than --short")
    os.environ.setdefault("HOLDFAST_SECRET", "a-simulated-shop-has-no-secrets")

    from orchestration.resources.dbt import prepare_manifest
    from orchestration.settings import silence_libraries

    silence_libraries()
    prepare_manifest()
    watch = Stopwatch()
    instrument(watch)
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as folder:
        started = time.perf_counter()
        print(f"making a shop of {args.customers:,} customers ...", flush=True)
        with quiet():
            home = make_home(
                Path(folder) / "home",
                args.customers,
                ENROLLED + timedelta(days=args.long),
                args.origins,
            )
        kept = Path(folder) / "kept"
        keep(home, kept)
        with restored(home, kept):
            measure(home, 1, watch)  # imports, dbt's parse, the second delivery: not measured
        print(f"made in {time.perf_counter() - started:.0f} s", flush=True)
        pairs, shares = [], []
        for number in range(args.rounds):
            taken: dict[int, tuple[float, dict[str, float]]] = {}
            order = (args.short, args.long) if number % 2 == 0 else (args.long, args.short)
            for days in order:  # in turns, so that drift of the machine hits both
                with restored(home, kept):
                    taken[days] = measure(home, days, watch), dict(watch.seconds)
            (short, before), (long, after) = taken[args.short], taken[args.long]
            pairs.append((short, long))
            shares.append(
                {kind: (after[kind] - before.get(kind, 0.0)) / (long - short) for kind in after}
            )
            print(f"round {number + 1}: {short:.1f} s and {long:.1f} s", flush=True)
        singles = []
        with restored(home, kept):
            for number in range(args.singles):
                after = ENROLLED + timedelta(days=number)
                singles.append(measure(home, 1, watch, after))
        print()
        print(report(pairs, shares, args.long - args.short))
        if singles:
            one, whole = statistics.median(singles), statistics.median(long for _, long in pairs)
            print(
                f"\none day as a run of its own, in this warm process: {one:.1f} s, so "
                f"{args.long} of them {one * args.long:.0f} s, {one * args.long / whole:.1f} times "
                f"the range of {args.long} days"
            )


if __name__ == "__main__":
    main()
