"""Reads the fields of user-written mappings (YAML, JSON) and rejects unknown fields.

Every error has the full path of the field, e.g. ``trainingInput.masterConfig.acceleratorConfig.count``.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from imgpipe.components.common.arguments import nearest_name
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, must_be_readable

# A field of Google's APIs has 32 bits.
_MAX_INTEGER = 2**31 - 1
# The limit of Google's type Duration.
_MAX_SECONDS = 315_576_000_000
# The limit of nodes, with aliases expanded: a few lines can contain billions.
_MAX_NODES = 200_000
_MAX_SHOWN = 200


class _StrictLoader(yaml.SafeLoader):
    """Rejects duplicate keys, of which PyYAML silently ignores all but the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_text(file: Path) -> str:
    """Returns the content of a UTF-8 file.

    Raises:
        MissingInputError: if it cannot be read.
        InvalidDataError: if it is not UTF-8 text.
    """
    try:
        with must_be_readable(repr(str(file))):
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidDataError(
            f"{str(file)!r} is not UTF-8 text (byte {error.start + 1})",
            remedy="save the file with the encoding UTF-8",
        ) from None


def parse_yaml(text: str, *, where: str) -> Any:
    """Parses a YAML or JSON document.

    Raises:
        InvalidArgumentError: if it is invalid or a mapping has a duplicate key; with line and column.
    """
    try:
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidArgumentError(
            f"not valid YAML: {error.problem}", where=f"{where}{line}", remedy="correct that line"
        ) from None
    except RecursionError:
        raise InvalidArgumentError(
            "not valid YAML: its blocks are nested too deeply",
            where=where,
            remedy="nest fewer brackets or blocks; check that this is the right file",
        ) from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"not valid YAML: {error}", where=where, remedy="use YAML or JSON text"
        ) from None


def _check_size(root: yaml.Node, where: str) -> None:
    """Rejects a document whose aliases stand for too many nodes, or for a node within itself."""
    sizes: dict[int, int] = {}
    # A node is visited before and after its children.
    stack = [(root, False)]
    while stack:
        node, has_children = stack.pop()
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        if not has_children:
            if id(node) not in sizes:
                # Until it is known, the size of a node that contains itself is infinite.
                sizes[id(node)] = _MAX_NODES + 1
                stack.append((node, True))
                stack.extend((child, False) for child in children)
            continue
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
    if sizes[id(root)] > _MAX_NODES:
        raise InvalidArgumentError(
            f"with its aliases, the document has more than {_MAX_NODES:,} values",
            where=where,
            remedy="remove the aliases (*name), and write the values",
        )


class FieldsReader:
    """Reads the fields of one mapping and checks their types.

    Args:
        fields: The parsed mapping.
        path: The mapping's path in its document; empty for the whole document.
        where: The document, for error messages.

    Attributes:
        fields: The mapping.

    Raises:
        InvalidArgumentError: if ``fields`` is not a mapping with text keys.
    """

    def __init__(self, fields: Any, path: str, *, where: str) -> None:
        self.path = path
        self.where = where
        if not isinstance(fields, Mapping) or not all(isinstance(key, str) for key in fields):
            raise InvalidArgumentError(
                f"{path or 'the document'} is {_format(fields)}, but must be a mapping",
                where=where,
                remedy="write it as `name: value` lines with equal indentation",
            )
        self.fields = dict(fields)
        self._read: list[str] = []

    def error(self, name: str, value: Any, must: str, remedy: str = "") -> InvalidArgumentError:
        """Returns the error for an invalid field; ``must`` is the allowed value."""
        return InvalidArgumentError(
            f"{self.path_of(name)}={_format(value)}: must be {must}",
            where=self.where,
            remedy=remedy or f"use {must}, or omit {name}",
        )

    def path_of(self, name: str) -> str:
        """Returns a field's full path."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return self._get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """Returns a text field; a number, e.g. a version such as ``1.14``, is converted to text."""
        value = self._get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(name, value, "text")
        return str(value)

    def choice(self, name: str, allowed: Sequence[str], default: str = "") -> str:
        """Returns a text field that must have one of the allowed values."""
        value = self.text(name, default)
        if value != default and value not in allowed:
            raise self.error(name, value, f"one of {', '.join(allowed)}", remedy=nearest_name(value, allowed))
        return value

    def integer(self, name: str, default: int = 0, *, minimum: int = 0, maximum: int = _MAX_INTEGER) -> int:
        """Returns an integer field; an integer in quotes is converted."""
        value = self._get(name)
        if value is None:
            return default
        must = f"a whole number, at least {minimum} and at most {maximum}"
        number = value
        whole_text = isinstance(value, str) and value.strip().isdecimal()
        if whole_text or (isinstance(value, float) and value.is_integer()):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise self.error(name, value, must)
        if not minimum <= number <= maximum:
            raise self.error(name, value, must)
        return number

    def number(self, name: str) -> float | None:
        """Returns a finite number; None if the field is missing."""
        value = self._get(name)
        return None if value is None else self._finite(name, value)

    def boolean(self, name: str) -> bool:
        """Returns a Boolean field; False if it is missing."""
        value = self._get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def seconds(self, name: str) -> float | None:
        """Returns a duration such as ``3600s`` in seconds; None if the field is missing."""
        value = self._get(name)
        if value is None:
            return None
        try:
            number = float(value[:-1]) if isinstance(value, str) and value.endswith("s") else -1.0
        except ValueError:
            number = -1.0
        if not 1 <= number <= _MAX_SECONDS:
            raise self.error(
                name, value, f"a number of seconds followed by s, from 1s to {_MAX_SECONDS}s, e.g. 3600s"
            )
        return number

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns a list of strings."""
        values = self.sequence(name)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise self.error(name, values, "a list of strings")
        return tuple(str(value) for value in values)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Returns a list of finite numbers."""
        return tuple(self._finite(name, value) for value in self.sequence(name))

    def sequence(self, name: str) -> list[Any]:
        """Returns a list; an empty one if the field is missing."""
        value = self._get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, value, "a list")
        return value

    def block(self, name: str) -> "FieldsReader":
        """Returns a reader of a mapping; of an empty one if the field is missing."""
        value = self._get(name)
        return FieldsReader({} if value is None else value, self.path_of(name), where=self.where)

    def blocks(self, name: str) -> list["FieldsReader"]:
        """Returns readers of a list of mappings."""
        return [
            FieldsReader(value, f"{self.path_of(name)}[{number}]", where=self.where)
            for number, value in enumerate(self.sequence(name))
        ]

    def known(self) -> list[str]:
        """Returns the names of the fields that were read, present or not."""
        return list(dict.fromkeys(self._read))

    def finish(self, misplaced: Mapping[str, str] = MappingProxyType({})) -> None:
        """Rejects fields that were not read.

        Args:
            misplaced: The correct locations of fields of other mappings, e.g. ``below trainingInput``.

        Raises:
            InvalidArgumentError: with the field, and its correct location or the most similar name.
        """
        for name in self.fields:
            if name not in self._read:
                location = misplaced.get(name)
                raise InvalidArgumentError(
                    f"there is no field {self.path_of(name)}",
                    where=self.where,
                    remedy=f"write {name} {location}, with equal indentation"
                    if location
                    else nearest_name(name, self.known()),
                )

    def _get(self, name: str) -> Any:
        self._read.append(name)
        return self.fields.get(name)

    def _finite(self, name: str, value: Any) -> float:
        if isinstance(value, str):
            # YAML 1.1 parses 1e-4 as text, and only 1.0e-4 as a number.
            try:
                value = float(value)
            except ValueError:
                raise self.error(name, value, "a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, value, "a finite number")
        return float(value)


def _format(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
