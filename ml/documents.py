"""YAML files that people write, as checked models: every error names file, line and field.

What belongs here: reading one text strictly, and saying where in it a model's complaint lies. What
does not: what any one file means (its model does), reading from a disk.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class DocumentError(ValueError):
    """A file that a person wrote does not say what it should; the message is one line a problem."""


class Document(BaseModel):
    """A part of such a file: no unknown field, fixed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


_KEY = "[key]"  # what pydantic adds to the path where the name of a value is wrong
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
        found = problems.errors(include_url=False)
        for problem in found:
            path = tuple(part for part in problem["loc"] if part != _KEY)
            inner = (tuple(other["loc"]) for other in found)
            if problem["type"] == "too_short" and any(
                loc[: len(path)] == path != loc for loc in inner
            ):
                continue  # of what is there nothing is valid, and that is told already
            words = _words(problem["type"], problem["msg"], path, problem.get("input"), model)
            # What several fields say together begins with the one that is wrong.
            while (head := words.partition(": ")[0]) in _fields_at(model, path):
                path, words = (*path, head), words.removeprefix(f"{head}: ")
            line = _line_of(root, path)
            field = _dotted(content, path)
            lines.append(f"{source}:{line}: " + (f"{field}: {words}" if field else words))
        raise error("\n".join(lines)) from problems


def _dotted(content: Any, path: tuple[int | str, ...]) -> str:
    """Return a path as people write it: parts of a list are counted from 1."""
    told = []
    for part in path:
        if isinstance(content, list) and isinstance(part, int):
            told.append(str(part + 1))
            content = content[part] if part < len(content) else None
        else:
            told.append(str(part))
            content = content.get(part) if isinstance(content, dict) else None
    return ".".join(told)


def _words(kind: str, said: str, path: tuple[int | str, ...], given: Any, model: Any) -> str:
    """Return what is wrong, for people: what was given, and what may have been meant."""
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        return f"there is no such field; {meant}"
    is_empty = given in (None, [], {}) or (isinstance(given, str) and not given.strip())
    if is_empty and kind != "value_error":
        return "is empty"
    needed = {"dict_type": "lines of `name: value`", "tuple_type": "a list"}.get(kind)
    if kind == "model_type":
        needed = f"fields ({', '.join(_fields_at(model, path))})"
    if needed is not None:
        return f"needs {needed}, not {given!r}"
    if kind == "string_pattern_mismatch":  # they are all alike
        said = "may have small letters, digits and _, and begins with a letter"
    words = said.removeprefix("Value error, ").removeprefix("Input ")
    is_plain = isinstance(given, str | int | float | bool) and kind != "value_error"
    return f"{words}, not {given!r}" if is_plain else words


def _fields_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """Return the fields of the part of a document at `path`."""
    for part in path:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, Document):
            fields = model.model_fields.items()
            model = next((f.annotation for n, f in fields if part in (n, f.alias)), None)
        while not isinstance(model, type) and (inner := get_args(model)):
            parts = [one for one in inner if one is not type(None)]
            model = next((one for one in parts if get_args(one)), parts[0])
    if not (isinstance(model, type) and issubclass(model, Document)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def line_of(text: str, *path: int | str) -> int:
    """Return the line of a field in a text that was parsed; of the part that is there, or 1."""
    return _line_of(yaml.compose(text, Loader=_StrictLoader), path)


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
    """YAML in which a key that stands twice is an error (the second would silently win).

    So is what cannot be made: the error has its place.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # it looks like a date and is none: 2025-13-01
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r}: {error}", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
