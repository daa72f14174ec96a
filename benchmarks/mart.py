"""What the SQL of the mart costs, against what it is compared with; no run of the graph.

    python benchmarks/mart.py range            90 days, against a query per day over the raw facts
    python benchmarks/mart.py one-day          one day, against polars and pandas
    python benchmarks/mart.py growth           how one day, and one more day in a range, grow
    python benchmarks/mart.py million          1,000,000 customers, 50 million events, on disk

Each arm runs in a process of its own, so that its peak memory is its own, and arms that are
compared run in turns: seconds drift by half within minutes on a shared machine, so the numbers to
compare are ratios of CPU seconds. Making the facts, compiling the SQL and proving that the answers
are equal are not measured.

What belongs here: measuring. What does not: a verdict; worlds (mart_world), SQL (mart_sql) and
other engines (mart_peers).
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from mart_sql import (
    INPUTS,
    MEASURED,
    REFERENCE,
    REFERENCE_REST,
    Mart,
    build,
    checksum,
    compile_mart,
    measured,
    on_day,
    open_raw,
    rest,
    told,
    unequal,
)
from mart_world import Size, last_days, write_world

SIZE = Size(events=2_000_000, customers=115_000)  # 94,494 of them have an event
TOLD = {model: told(query) for model, query in REFERENCE.items()}
HISTORIES = ["int_purchase_histories", "int_purchase_rhythm", "int_customer_last_events"]


@dataclass
class Cost:
    """What a piece of work took."""

    cpu: float
    wall: float
    peak_gb: float
    value: Any = None

    def __str__(self) -> str:
        return f"CPU {self.cpu:8.2f} s   wall {self.wall:8.2f} s   peak {self.peak_gb:5.2f} GB"


class Clock:
    """CPU and wall seconds of the parts of one arm, by name."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """Do a piece of work and add what it took."""
        cpu, wall = time.process_time(), time.perf_counter()
        value = work()
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        return value


def in_child(work: Callable[[Clock], Any]) -> tuple[Clock, float, Any]:
    """Do work in a forked child: its clock, its peak memory in GB, and what it returned."""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as channel:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                clock = Clock()
                pickle.dump((clock, work(clock)), channel)
                channel.flush()
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status, usage = os.wait4(child, 0)
        if status != 0:
            raise SystemExit("an arm failed; see above")
        channel.seek(0)
        clock, value = pickle.load(channel)
    return clock, usage.ru_maxrss / 1e6, value


def measure(work: Callable[[Clock], Any]) -> Cost:
    """Do work in a child and return the sum of what its clock saw."""
    clock, peak, value = in_child(work)
    return Cost(sum(clock.cpu.values()), sum(clock.wall.values()), peak, value)


def chunks(days: Sequence[date], longest: int) -> list[list[date]]:
    """Return the days in as few parts as may be, of about the same length."""
    count = math.ceil(len(days) / longest)
    size = math.ceil(len(days) / count)
    return [list(days[start : start + size]) for start in range(0, len(days), size)]


# --- 1. a range --------------------------------------------------------------------------------


def range_path(
    facts: Path, many: Mart, days: Sequence[date], longest: int
) -> Callable[[Clock], None]:
    """Return the range path as an arm: inputs from the raw facts on, and what adds up.

    Inputs do not depend on the days, and are made once for all parts, as runs of one load do.
    """

    def work(clock: Clock) -> None:
        connection = open_raw(facts)
        for name in INPUTS:
            clock.time(f"input {name}", partial(build, connection, many, days, [name]))
        for part in chunks(days, longest):
            build(connection, many, part, [])
            for name, sql in measured(many).items():
                clock.time(name, partial(checksum, connection, sql))

    return work


def range_rest(
    facts: Path, many: Mart, days: Sequence[date], longest: int
) -> Callable[[Clock], None]:
    """Return what does not add up as an arm; its inputs are charged to what does.

    Histories are tables that other models read, so they are kept in a warehouse on disk, as in use.
    """

    def work(clock: Clock) -> None:
        with tempfile.TemporaryDirectory(dir=facts.parent) as folder:
            connection = open_raw(facts, f"{folder}/warehouse.duckdb")
            build(connection, many, days, INPUTS)
            for part in chunks(days, longest):
                build(connection, many, part, [])
                for name, sql in rest(many).items():
                    clock.time(name, partial(checksum, connection, sql))
                for name in HISTORIES:
                    clock.time(name, partial(build, connection, many, part, [name]))

    return work


def reference(
    facts: Path, queries: dict[str, str], days: Sequence[date]
) -> Callable[[Clock], None]:
    """Return a query per day and group, straight from the raw facts, as an arm."""

    def work(clock: Clock) -> None:
        connection = open_raw(facts)
        for day in days:
            for name, sql in queries.items():
                clock.time(name, partial(checksum, connection, on_day(sql, day)))

    return work


def prove(facts: Path, mart: Mart, days: Sequence[date]) -> int:
    """Compare every row of these days with the reference; return how many were compared."""

    def work(clock: Clock) -> int:
        connection = open_raw(facts)
        build(connection, mart, days, [*INPUTS, *MEASURED])
        compared = 0
        for day in days:
            for model, query in [*REFERENCE.items(), *TOLD.items()]:
                rows, differing = unequal(connection, model, on_day(query, day), day)
                if differing:
                    raise SystemExit(
                        f"{model} differs from the reference on {day} in {differing} rows"
                    )
                compared += rows
        return compared

    return int(in_child(work)[2])


def evenly(days: Sequence[date], count: int) -> list[date]:
    """Return that many of the days, evenly spaced, the first and the last among them."""
    return [days[round(n * (len(days) - 1) / (count - 1))] for n in range(count)]


def run_range(folder: Path, one: Mart, many: Mart, args: argparse.Namespace) -> None:
    """Measure a range against the days one by one."""
    facts = make(folder, SIZE)
    days = last_days(args.days)
    sample = evenly(days, args.sample)
    print(f"equal in {prove(facts, many, sample):,} rows of {len(sample)} days", flush=True)
    ratios: list[float] = []
    ratios_told: list[float] = []
    rests: list[float] = []
    for number in range(args.rounds):
        print(f"\nround {number + 1}")
        clock, peak, _ = in_child(range_path(facts, many, days, args.chunk))
        ours = Cost(sum(clock.cpu.values()), sum(clock.wall.values()), peak)
        theirs, theirs_told = (
            extrapolated(measure(reference(facts, queries, sample)), len(days) / len(sample))
            for queries in (REFERENCE, TOLD)
        )
        ours_rest = measure(range_rest(facts, many, days, args.chunk))
        theirs_rest = extrapolated(
            measure(reference(facts, REFERENCE_REST, sample)), len(days) / len(sample)
        )
        print(f"  sums and counts, range             {ours}")
        for name, seconds in clock.cpu.items():
            print(f"      {name:28}   CPU {seconds:8.2f} s")
        print(f"  sums and counts, day by day (*)    {theirs}")
        print(f"      told what was superseded       {theirs_told}")
        print(f"  the rest, range                    {ours_rest}")
        print(f"  the rest, day by day (*)           {theirs_rest}")
        ratios.append(theirs.cpu / ours.cpu)
        ratios_told.append(theirs_told.cpu / ours.cpu)
        rests.append((theirs_rest.cpu + theirs.cpu) / (ours_rest.cpu + ours.cpu))
        print(
            f"  CPU ratio: sums and counts {ratios[-1]:.1f}, told {ratios_told[-1]:.1f},"
            f" with the rest {rests[-1]:.1f}"
        )
    print(f"\n(*) {len(sample)} days measured, multiplied to {len(days)}; the rest without rhythm")
    print(
        f"median CPU ratio: sums and counts {statistics.median(ratios):.1f},"
        f" told {statistics.median(ratios_told):.1f}, with the rest {statistics.median(rests):.1f}"
    )


def extrapolated(cost: Cost, factor: float) -> Cost:
    """Return the cost of so many times as many days."""
    return Cost(cost.cpu * factor, cost.wall * factor, cost.peak_gb)


# --- 2. one day --------------------------------------------------------------------------------


def run_one_day(folder: Path, one: Mart, many: Mart, args: argparse.Namespace) -> None:
    """Measure one day of engagement against polars and pandas, all in memory and warm."""
    import mart_peers

    facts = make(folder, SIZE)
    day = last_days(1)[0]
    arms = mart_peers.arms(facts, one, day, args.threads)
    found: dict[str, list[Cost]] = {}
    answers = {}
    for _ in range(args.rounds):
        for name, prepare in arms.items():

            def work(clock: Clock, prepare: Callable[[], Callable[[], Any]] = prepare) -> Any:
                ask = prepare()
                ask()  # warm
                times = []
                for _ in range(5):
                    cpu, wall = time.process_time(), time.perf_counter()
                    answer = ask()
                    times.append((time.perf_counter() - wall, time.process_time() - cpu))
                return min(wall for wall, _ in times), min(cpu for _, cpu in times), answer

            _, peak, (wall, cpu, answer) = in_child(work)
            found.setdefault(name, []).append(Cost(cpu, wall, peak))
            answers[name] = answer
    if len(set(answers.values())) != 1:
        raise SystemExit(f"the answers differ: {answers}")
    print(f"all answers are equal ({next(iter(answers.values()))[0]:,} customers)")
    medians = {
        name: Cost(
            statistics.median(c.cpu for c in costs),
            statistics.median(c.wall for c in costs),
            max(c.peak_gb for c in costs),
        )
        for name, costs in found.items()
    }
    print(f"best of 5, median of {args.rounds} processes")
    for name, cost in medians.items():
        print(
            f"  {name:32} CPU {cost.cpu:6.3f} s ({cost.cpu / medians['mart'].cpu:4.1f}x)"
            f"   wall {cost.wall:6.3f} s ({cost.wall / medians['mart'].wall:4.1f}x)"
            f"   peak {cost.peak_gb:.2f} GB"
        )


# --- 3. growth ---------------------------------------------------------------------------------


def whole(facts: Path, mart: Mart, days: Sequence[date]) -> tuple[float, float]:
    """Return the CPU seconds of the states that a load makes once, and of the windowed models."""

    def work(clock: Clock) -> None:
        connection = open_raw(facts)
        for part, names in (("states", INPUTS), ("windows", MEASURED)):
            for name in names:
                clock.time(part, partial(build, connection, mart, days, [name]))

    clock, _, _ = in_child(work)
    return clock.cpu["states"], clock.cpu["windows"]


def run_growth(folder: Path, one: Mart, many: Mart, args: argparse.Namespace) -> None:
    """Measure how one day, and one more day in a range, grow with the shop and with its past."""
    base = Size(events=125_000, customers=7_200)
    series = {
        "events (history of 455 days)": [
            (factor, Size(base.events * factor, base.customers * factor)) for factor in (1, 4, 16)
        ],
        "history (the same shop, every day alike)": [
            (years, Size(int(500_000 * years * 365 / 455), int(14_000 * (years + 2)), 365 * years))
            for years in (1, 2, 4)
        ],
    }
    for title, sizes in series.items():
        print(
            f"\n{title}; CPU seconds\n"
            f"  {'':>6} {'states':>10} {'one day':>10} {'20 days':>10} {'50 days':>10}"
            f" {'one more day':>14}"
        )
        costs: dict[str, list[tuple[float, float]]] = {}
        for factor, size in sizes:
            facts = make(folder, size)
            rounds = []
            for _ in range(args.rounds):
                states, day = whole(facts, one, last_days(1))
                short, long = (whole(facts, many, last_days(count))[1] for count in (20, 50))
                rounds.append((states, day, short, long, (long - short) / 30))
            states, day, short, long, more = (
                statistics.median(column) for column in zip(*rounds, strict=True)
            )
            for name, cost in (("states", states), ("one day", day), ("one more day", more)):
                costs.setdefault(name, []).append((factor, cost))
            print(
                f"  {factor:5}x {states:10.3f} {day:10.3f} {short:10.2f} {long:10.2f} {more:14.4f}",
                flush=True,
            )
        exponents = (f"{name} {slope(points):.2f}" for name, points in costs.items())
        print(f"  exponent: {', '.join(exponents)}")


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent of growth: the slope of a straight line through the logarithms."""
    line = statistics.linear_regression(
        [math.log(x) for x, _ in points], [math.log(max(y, 1e-6)) for _, y in points]
    )
    return line.slope


# --- 4. a million customers --------------------------------------------------------------------


def run_million(folder: Path, one: Mart, many: Mart, args: argparse.Namespace) -> None:
    """Measure one day and a range of 30 at a size that does not fit in the memory allowed."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < 40:
        raise SystemExit(f"40 GB of disk are needed in {folder}, {free:.0f} GB are free")
    started = time.perf_counter()
    facts = make(folder, Size(args.events, args.customers))
    print(
        f"facts: {facts.stat().st_size / 1e9:.1f} GB, made in {time.perf_counter() - started:.0f} s"
    )
    warehouse, spill = folder / "warehouse.duckdb", folder / "spill"
    settings = {
        "memory_limit": args.memory_limit,
        "temp_directory": str(spill),
        "preserve_insertion_order": False,
    }
    for mart, count in ((one, 1), (many, 30)):
        cost = measure(partial(kept, facts, warehouse, mart, last_days(count), settings))
        print(
            f"  {count} days: {cost}   file {warehouse.stat().st_size / 1e9:.1f} GB"
            f"   {cost.value:,} rows of orders",
            flush=True,
        )
        warehouse.unlink()


def kept(
    facts: Path,
    warehouse: Path,
    mart: Mart,
    days: Sequence[date],
    settings: dict[str, object],
    clock: Clock,
) -> int:
    """Build the windowed models into a file; return how many customers and days have orders."""
    connection = open_raw(facts, str(warehouse), **settings)
    for name in [*INPUTS, *MEASURED]:
        clock.time(name, partial(build, connection, mart, days, [name]))
        print(f"      {name} {clock.wall[name]:.0f} s", flush=True)
    row = connection.execute("SELECT count(*) FROM intermediate.int_customer_orders").fetchone()
    clock.time("close", connection.close)
    return int(row[0]) if row else 0


# ------------------------------------------------------------------------------------------------


def make(folder: Path, size: Size) -> Path:
    """Return the facts of that size, made once."""
    path = folder / f"facts-{size.events}-{size.customers}-{size.days}.duckdb"
    if not path.exists():
        print(f"making {size.events:,} events over {size.days} days ...", flush=True)
        in_child(lambda clock: write_world(path, size))
    return path


COMMANDS = {
    "range": run_range,
    "one-day": run_one_day,
    "growth": run_growth,
    "million": run_million,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--days", type=int, default=90, help="range: how many days")
    parser.add_argument("--chunk", type=int, default=60, help="range: the most days built at once")
    parser.add_argument("--sample", type=int, default=6, help="range: days of the reference")
    parser.add_argument("--threads", type=int, default=1, help="one-day: of each engine")
    parser.add_argument("--customers", type=int, default=1_000_000, help="million")
    parser.add_argument("--events", type=int, default=50_000_000, help="million")
    parser.add_argument("--memory-limit", default="10GB", help="million: what DuckDB may take")
    parser.add_argument("--folder", type=Path, help="where facts are kept (default: thrown away)")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        one, many = in_child(lambda clock: compile_mart())[2]
        COMMANDS[args.command](folder, one, many, args)


if __name__ == "__main__":
    main()
