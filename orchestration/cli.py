"""The command line: `python -m orchestration COMMAND`.

What belongs here: parsing, and turning errors that a person can mend into one message. What each
command does is in the module it calls.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestration.settings import Settings, silence_libraries, wrong_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestration.resources.home import Home

    Command = Callable[[argparse.Namespace], int | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (0 done, 1 failed, 2 misused)."""
    silence_libraries()
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.command(parsed) or 0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        print(wrong_settings(error), file=sys.stderr)
        return 2
    except Exception as error:
        if not _is_for_people(error):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _is_for_people(error: Exception) -> bool:
    """Whether `error` is one of ours: its message says what is wrong and what to do."""
    return type(error).__module__.split(".")[0] in {"orchestration", "ml", "expectations"}


def _home() -> Home:
    from orchestration.resources.home import Home

    return Home.open(Settings().home)


def _init(args: argparse.Namespace) -> None:
    from orchestration.resources.home import Home, Shop

    shop = Shop(
        args.timezone,
        args.currency,
        args.first_day,
        args.last_day,
        args.active_window_days,
        args.horizon_days,
        args.consent_without_records,
    )
    home = Home.create(Settings().home, shop)
    print(f"{home.root}: put files into {home.landing}/<table>/ and run `run --from --to`")


def _demo(args: argparse.Namespace) -> None:
    from orchestration.demo import demo

    demo(
        args.source,
        args.data,
        args.customers,
        timezone=args.timezone,
        currency=args.currency,
        fresh=args.fresh,
    )


def _run(args: argparse.Namespace) -> None:
    from orchestration.runs import run_days

    for run_id in run_days(_home(), args.start, args.end or args.start, rescore=args.rescore):
        print(f"run {run_id} succeeded")


def _history(args: argparse.Namespace) -> None:
    from orchestration.runs import run_history

    run_id = run_history(_home(), args.end, args.every, args.start)
    print(f"run {run_id} succeeded")


def _train(args: argparse.Namespace) -> None:
    from orchestration.runs import run_training

    run_id = run_training(_home(), args.as_of)
    print(f"run {run_id} succeeded")


def _versions(args: argparse.Namespace) -> None:
    from orchestration.resources.lake import NotPublishedError, to_pandas
    from orchestration.resources.platform import Platform
    from orchestration.tables import all_tables

    home, tables = _home(), all_tables()
    if args.table not in tables:
        raise NotPublishedError(f"no table {args.table!r}; there are {', '.join(sorted(tables))}")
    lake, table = Platform(root=str(home.root)).lake, tables[args.table]
    published = {one.delta_version: one for one in lake.versions(table, args.day)}
    if not published:
        raise NotPublishedError(f"{table.name} of {args.day} was never published")
    for version, one in published.items():
        print(
            f"version {version}: {one.row_count:,} rows, content {one.content_hash[:16]}, loads up "
            f"to {one.generation}, model version {one.model_version or 'none'}, run {one.run_id}"
        )
    if args.csv is None:
        return
    version = max(published) if args.version is None else args.version
    if version not in published:
        raise NotPublishedError(f"version {version} of {table.name} did not publish {args.day}")
    from orchestration.defs.campaigns.files import write_csv

    rows = to_pandas(lake.read(table, [args.day], version=version))
    print(write_csv(args.csv.resolve().parent, args.csv.name, rows))


def _rebuild_stale(_: argparse.Namespace) -> None:
    from orchestration.runs import rebuild_stale

    rebuilt = rebuild_stale(_home())
    print(f"rebuilt {len(rebuilt)} days" if rebuilt else "no day is stale")


def _simulate(args: argparse.Namespace) -> None:
    from orchestration.defs.sources.simulated import simulate_into

    simulate_into(_home(), args.start, args.end, args.customers, args.seed, print)


def _champion(args: argparse.Namespace) -> None:
    from orchestration.defs.models.assets import CHURN_MODEL
    from orchestration.resources.models import Models

    models = Models(_home(), Settings().protected_features)
    if args.rollback:
        ref = models.rollback(CHURN_MODEL, args.reason, args.name)
        print(f"champion is version {ref.version} again; the next day scored uses it")
    elif args.promote:
        ref = models.promote(CHURN_MODEL, args.promote, args.reason, args.name)
        print(f"champion is version {ref.version}")
    elif args.sign:
        ref = models.sign(CHURN_MODEL, args.sign, args.reason, args.name)
        print(f"the leak review of version {ref.version} is signed; it may be promoted")
    for move in models.history(CHURN_MODEL):
        print(
            f"{move.kind}: {move.previous_version} -> {move.version} by {move.approver}: "
            f"{move.reason}"
        )


def _campaign(args: argparse.Namespace) -> None:
    from orchestration.defs.campaigns.export import export, preview

    if args.approver is None and (args.token or args.to):
        args.refuse("--token and --to are of an export, which needs --approver")
    home = _home()
    if args.plan:
        from orchestration.defs.campaigns.answers import plan

        print(plan(home, args.campaign, args.day))
        return
    if args.results:
        from orchestration.defs.campaigns.answers import results

        print(results(home, args.campaign, args.day))
        return
    if args.approver is None:
        print(preview(home, args.campaign, args.day))
        return
    for path in export(home, args.campaign, args.day, args.approver, args.token, args.to):
        print(path)


def _contacts(args: argparse.Namespace) -> None:
    from ml.targeting import Constraints
    from orchestration.defs.uplift.contacts import plan

    text, path = plan(_home(), Constraints(args.budget, args.capacity, args.explore))
    print(text)
    if path is not None:
        print(path)


def _prepare(_: argparse.Namespace) -> None:
    from orchestration.resources.dbt import prepare_manifest

    print(prepare_manifest())


def _dbt_docs(_: argparse.Namespace) -> None:
    from orchestration.resources.platform import Platform

    print(Platform(root=str(_home().root)).dbt.docs().as_uri())


def _up(args: argparse.Namespace) -> int:
    from orchestration.servers import serve

    return serve(_home(), args.dagster_port, args.mlflow_port)


def _down(_: argparse.Namespace) -> None:
    from orchestration.servers import stop

    stop(_home())


def _summary(_: argparse.Namespace) -> None:
    from orchestration.demo import summary

    print(summary(_home()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestration",
        description="Holdfast. The home is HOLDFAST_HOME, by default .holdfast/ here.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=run)
        return sub

    day = date.fromisoformat

    sub = command("init", _init, "make the home of one shop")
    sub.add_argument("--timezone", required=True)
    sub.add_argument("--currency", required=True)
    sub.add_argument("--first-day", type=day, required=True)
    sub.add_argument("--last-day", type=day, help="for a historic shop; a live one has none")
    sub.add_argument("--active-window-days", type=int, default=180)
    sub.add_argument("--horizon-days", type=int, default=90)
    sub.add_argument("--consent-without-records", choices=["denied", "granted"], default="denied")

    sub = command("demo", _demo, "make a shop, train on its past, run its last month, summarise")
    sub.add_argument(
        "--source",
        choices=["simulated", "online-retail-ii", "contract"],
        default="simulated",
    )
    sub.add_argument("--data", type=Path, help="folder of the source's files")
    sub.add_argument("--customers", type=int, default=20_000, help="of the simulated shop")
    sub.add_argument("--timezone", default="UTC", help="of a shop in the source contract")
    sub.add_argument("--currency", default="EUR", help="of a shop in the source contract")
    sub.add_argument("--fresh", action="store_true", help="throw the demo's home away first")

    sub = command("run", _run, "run the daily job for a day or a range, in one run")
    sub.add_argument("--from", dest="start", type=day, required=True)
    sub.add_argument("--to", dest="end", type=day, help="default: the one day")
    sub.add_argument("--rescore", action="store_true", help="use today's models for days published")

    sub = command("history", _history, "build features and labels of past days to train on")
    sub.add_argument("--end", type=day, required=True)
    sub.add_argument("--start", type=day)
    sub.add_argument("--every", type=int, default=14, help="days between snapshots")

    sub = command("train", _train, "train, compare and register the models")
    sub.add_argument("--as-of", type=day, help="default: the last day with labels")

    sub = command("versions", _versions, "tell, and read again, all that was published of a day")
    sub.add_argument("table", help="its name, such as churn_scores")
    sub.add_argument("day", type=day)
    sub.add_argument("--version", type=int, help="the one to read; default: the one that stands")
    sub.add_argument("--csv", type=Path, metavar="FILE", help="write its rows there")

    command("rebuild-stale", _rebuild_stale, "build days again that late data restates")

    sub = command("simulate", _simulate, "let the simulated shop deliver the files of some days")
    sub.add_argument("--from", dest="start", type=day, required=True)
    sub.add_argument("--to", dest="end", type=day, required=True, help="the day after the last")
    sub.add_argument("--customers", type=int, default=20_000)
    sub.add_argument("--seed", type=int, default=7)

    sub = command("champion", _champion, "show, roll back or promote the churn model")
    sub.add_argument("--rollback", action="store_true")
    sub.add_argument("--promote", type=int, metavar="VERSION")
    sub.add_argument("--sign", type=int, metavar="VERSION", help="sign the leak review of it")
    sub.add_argument("--reason", default="asked for on the command line")
    sub.add_argument("--name", default="command line", help="who decides")

    sub = command("campaign", _campaign, "plan a campaign; preview or export its cohort; read it")
    sub.add_argument("campaign", help="its id; at_risk_<play> for a play of the at-risk list")
    sub.add_argument("--day", type=day, help="the last published day, which is the default")
    sub.set_defaults(refuse=sub.error)
    one = sub.add_mutually_exclusive_group()
    one.add_argument("--plan", action="store_true", help="before it starts: whom, cost and power")
    one.add_argument("--results", action="store_true", help="what it earned, by its last reading")
    one.add_argument("--approver", help="who approves the export; without one this is a dry run")
    sub.add_argument("--token", default="", help="what the dry run printed")
    sub.add_argument("--to", metavar="URL", help="post it to a tool, too; again: go on with that")

    sub = command("contacts", _contacts, "plan whom to contact with what, by what campaigns taught")
    sub.add_argument("--budget", type=float, help="money for contacts and offers")
    sub.add_argument("--capacity", type=int, help="contacts at most")
    sub.add_argument("--explore", type=float, default=0.1, help="share that is drawn at random")

    command("prepare", _prepare, "write dbt's manifest, which the definitions are made from")
    command("dbt-docs", _dbt_docs, "write the documentation of the mart, one HTML page")
    command("summary", _summary, "what the last published day says, for a shop owner")
    sub = command("up", _up, "serve the Dagster UI, its daemon and the MLflow UI, on loopback")
    sub.add_argument("--dagster-port", type=int, default=3000)
    sub.add_argument("--mlflow-port", type=int, default=5000)
    command("down", _down, "stop what `up` started")
    return parser
