"""YAML files that people write, as checked models: every error names file, line and field.

What belongs here: reading one text strictly, and saying where in it a model's complaint lies. What
does not: what any one file means (its model does), reading from a disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class DocumentError(ValueError):
    """A file that a person wrote does not say what it should; the message is one line a problem."""


class Document(BaseModel):
    """A part of such a file: no unknown field, fixed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


Model = TypeVar("Model", bound=Document)


def parse(
    text: str,
    source: str,
    model: type[Model],
    *,
    error: type[DocumentError] = DocumentError,
    context: Mapping[str, Any] | None = None,
) -> Model:
    """Return the model that a YAML text describes.

    source: the name of the file, for messages. context: what validators may look up.

    Raises:
        DocumentError: or the `error` given, one line per problem: `file:line: field: what`.
    """
    try:
        root = yaml.compose(text, Loader=_StrictLoader)
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as unreadable:
        mark = getattr(unreadable, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        words = getattr(unreadable, "problem", None) or str(unreadable)
        raise error(f"{source}{where}: not readable as YAML: {words}") from unreadable
    if not isinstance(content, dict):
        raise error(f"{source}: expected a mapping of fields, such as {_example(model)}")
    try:
        return model.model_validate(content, context=dict(context or {}))
    except ValidationError as problems:
        lines = []
        for problem in problems.errors(include_url=False):
            words = problem["msg"].removeprefix("Value error, ")
            path = tuple(problem["loc"])
            if not path:  # of the whole document: its message begins with the field
                path = (words.partition(":")[0],)
                if path[0] in content:
                    words = words.partition(":")[2].strip()
                else:
                    path = ()
            line = _line_of(root, path)
            field = ".".join(str(part) for part in path)
            lines.append(f"{source}:{line}: " + (f"{field}: {words}" if field else words))
        raise error("\n".join(lines)) from problems


def _line_of(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """Return the line of the innermost part of `path` that is there; 1 for the whole document."""
    line = 1
    for part in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = (node.value[part],) * 2 if part < len(node.value) else None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _example(model: type[Document]) -> str:
    return " and ".join(field.alias or name for name, field in list(model.model_fields.items())[:2])


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error (the second would silently win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
