"""Data Docs: what was expected of each partition and what was found, as static pages.

Belongs here: the site, one page per validation, rendered by Great Expectations' own renderer
into pages of ours. Theirs load styles and scripts from seven hosts: they are unreadable without a
network and tell those hosts that somebody looks. Does not belong here: the verdict (`audit.py`),
where the site lies (orchestration).

Pages hold counts and the names of declared columns, never a value of a batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

    from expectations.audit import AuditResult

_TEMPLATES = Path(__file__).with_name("templates")


class DocsSite:
    """A folder with `index.html` and one page for each of the last `keep` validations.

    `add` is called per audit and costs nothing; `build`, once per run, renders what was added.
    Several processes may build into one folder.
    """

    def __init__(self, folder: Path, keep: int = 100) -> None:
        """`folder` is created by `build`; `keep` is at least 1."""
        if keep < 1:
            raise ValueError(f"keep is {keep}: a site needs at least one validation")
        self.folder = folder
        self.keep = keep
        self._added: deque[tuple[AuditResult, ExpectationSuiteValidationResult]] = deque(
            maxlen=keep
        )

    def add(self, verdict: AuditResult, result: ExpectationSuiteValidationResult) -> AuditResult:
        """Remember a validation for `build`; gives the verdict with its page.

        The page is named by what it says: the same outcome again has the same page.
        """
        counts = [
            (one.expectation_config and one.expectation_config.meta, one.success, one.result)
            for one in result.results
        ]
        said = json.dumps([verdict.suite_version, counts], sort_keys=True, default=str)
        digest = hashlib.sha256(said.encode()).hexdigest()[:12]
        page = f"validations/{verdict.table}/{_day(verdict)}-{digest}.html"
        verdict = dataclasses.replace(verdict, page=page)
        self._added.append((verdict, result))
        return verdict

    def build(self) -> Path:
        """Write the pages added since the last build, drop the oldest beyond `keep`.

        Returns:
            The path of `index.html`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / ".lock"):
            listed = {entry["page"]: entry for entry in self._listed()}
            while self._added:
                verdict, result = self._added.popleft()
                assert verdict.page is not None  # set by add
                _write(self.folder / verdict.page, _render_validation(verdict, result))
                listed.pop(verdict.page, None)  # an outcome seen again becomes the latest
                listed[verdict.page] = _entry(verdict)
            entries = list(listed.values())
            for entry in entries[: -self.keep]:
                (self.folder / entry["page"]).unlink(missing_ok=True)
            entries = entries[-self.keep :]
            _write(self.folder / "validations.json", json.dumps(entries, indent=1) + "\n")
            _write(self.folder / "index.html", _render_index(entries[::-1]))
        return self.folder / "index.html"

    def _listed(self) -> list[dict[str, Any]]:
        """The validations of the site, oldest first; none if there is no legible list."""
        try:
            entries = json.loads((self.folder / "validations.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        return [e for e in entries if (self.folder / e["page"]).is_file()]


def _entry(verdict: AuditResult) -> dict[str, Any]:
    return {
        "table": verdict.table,
        "partition": _day(verdict),
        "verdict": _state(verdict),
        "rows": verdict.row_count,
        "expected": verdict.expected,
        "evaluated": verdict.evaluated,
        "told": [told.message for told in (*verdict.failures, *verdict.warnings)][:3],
        "suite_version": verdict.suite_version,
        "page": verdict.page,
    }


def _day(verdict: AuditResult) -> str:
    """The partition; a table without partitions is audited as that of the first date there is."""
    return "all" if verdict.partition == datetime.date.min else verdict.partition.isoformat()


def _state(verdict: AuditResult) -> str:
    return "failed" if not verdict.passed else "warned" if verdict.warnings else "passed"


def _render_validation(verdict: AuditResult, result: ExpectationSuiteValidationResult) -> str:
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    result.results = sorted(result.results, key=lambda one: bool(one.success))  # failed ones first
    rendered = ValidationResultsPageRenderer(run_info_at_end=True).render(result)
    document = rendered.to_json_dict()
    # Its Overview and Run Info repeat our head of the page in terms of the library's own files.
    document["sections"] = document["sections"][1:-1]
    for section in document["sections"]:
        section["content_blocks"] = section["content_blocks"][1:]  # a heading of its own
    return _page(
        "validation.j2", verdict=verdict, state=_state(verdict), day=_day(verdict), **document
    )


def _render_index(entries: list[dict[str, Any]]) -> str:
    return _page("index.j2", entries=entries)


def _page(template: str, **values: Any) -> str:
    """A page of ours, with the library's filters and partial templates at hand."""
    from great_expectations.render.view import DefaultJinjaPageView

    view = DefaultJinjaPageView(custom_views_directory=str(_TEMPLATES))
    return str(view.env.get_template(template).render(**values))


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that a reader never sees half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one writer at a time: `build` holds the lock
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on `path`; a process that dies gives it back."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
