"""What the documents say must be so: links lead somewhere, commands exist, nothing is missing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from docs.generate import REASONS, WINDOWS, measure
from ml.features import FEATURES
from orchestration.cli import _parser
from orchestration.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchors(path: Path) -> set[str]:
    """What a heading is called in a link, as code hosts make it."""
    headings = re.findall(
        r"^#+ (.+)$", CODE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _commands() -> list[tuple[str, str]]:
    """Return (document, command) for every line of a shell block, and every command in a text."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for _, language, block in CODE.findall(text):
            if language == "sh":
                lines = block.replace("\\\n", " ").splitlines()
                found += [(_name(path), line.strip()) for line in lines]
        for quoted in re.findall(r"`([^`]+)`", CODE.sub("", text)):
            found.append((_name(path), " ".join(quoted.split())))
    return [(name, line.split(" #")[0].strip()) for name, line in found]


MAKE = sorted({(n, c) for n, c in _commands() if re.match(r"(\w+=\S+ )*make \w", c)})
CLI = sorted({(n, c) for n, c in _commands() if re.match(r"python -m orchestration \w", c)})


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        to = (path.parent / file).resolve() if file else path
        assert to.exists(), f"{_name(path)}: {target}"
        if anchor:
            assert anchor in _anchors(to), f"{_name(path)}: {target}"


def test_there_are_commands_to_check() -> None:
    assert len(MAKE) > 10
    assert len(CLI) > 15


@pytest.mark.parametrize(("document", "command"), MAKE)
def test_make_targets_exist(document: str, command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    words = shlex.split(command)
    words = words[words.index("make") + 1 :]
    assert {word for word in words if "=" not in word} <= targets, f"{document}: {command}"
    for variable in (word.split("=")[0] for word in words if "=" in word):
        assert f"$({variable})" in makefile, f"{document}: {command}"


@pytest.mark.parametrize(("document", "command"), CLI)
def test_commands_parse(document: str, command: str) -> None:
    words = shlex.split(command)[3:]
    if len(words) == 1:  # named in a sentence, without its arguments
        words.append("--help")
    try:
        _parser().parse_args(words)
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"{document}: {command}")


def test_tests_that_documents_name_exist() -> None:
    named = []
    for path in DOCUMENTS:
        file = ""
        for quoted in re.findall(r"`(\S*::\w+)`", path.read_text(encoding="utf-8")):
            own, _, test = quoted.partition("::")
            file = own or file  # in a list the file is named once
            named.append((_name(path), file, test))
    assert len({test for _, _, test in named}) > 40
    for document, file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{document}: {test}"


def test_decisions_are_numbered_and_say_the_same_things() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(record.name[:4])}. "), record.name
        assert re.search(r"^Accepted, \d{4}-\d\d-\d\d\.", text, re.MULTILINE), record.name
        assert "\n## Decision\n" in text, record.name
        assert "\n## Consequences\n" in text, record.name


def test_decisions_that_the_code_names_exist() -> None:
    numbers = {record.name[:4] for record in (ROOT / "docs" / "decisions").glob("*.md")}
    sources = [ROOT / "pyproject.toml", ROOT / "Makefile"]
    for folder in (
        "orchestration",
        "ml",
        "expectations",
        "dbt_project/models",
        "dbt_project/macros",
    ):
        sources += [p for p in (ROOT / folder).rglob("*.*") if p.suffix in {".py", ".sql", ".yaml"}]
    named = {
        (path.name, number)
        for path in sources
        for number in re.findall(r"docs/decisions/(\d{4})", path.read_text(encoding="utf-8"))
    }
    assert named
    assert {number for _, number in named} <= numbers, named


def test_every_setting_is_explained() -> None:
    text = (ROOT / "docs" / "how-to" / "operations.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `HOLDFAST_(\w+)`", text, re.MULTILINE))
    assert explained == {name.upper() for name in Settings.model_fields}


def test_every_reason_belongs_to_a_feature() -> None:
    measures = {measure(feature) for feature in FEATURES}
    assert {name for family in REASONS.values() for name in family} == measures
    assert set(WINDOWS) <= set(FEATURES)


def test_no_document_names_an_index_or_a_path_of_one_machine() -> None:
    files = [*DOCUMENTS, ROOT / ".pre-commit-config.yaml", *(ROOT / ".github").rglob("*.yml")]
    index, machine = "py" + "pi", re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/")
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert index not in text.lower(), _name(path)
        assert not machine.search(text), _name(path)
