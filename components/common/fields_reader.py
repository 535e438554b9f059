"""Reads mappings that a user wrote (YAML, JSON), field by field, and refuses what is left over.

Every error names the field by its whole path, e.g. ``trainingInput.masterConfig.acceleratorConfig.count``.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml

from imgpipe.components.common.arguments import nearest_name
from imgpipe.components.common.errors import InvalidArgumentError


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: the first would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, *, where: str) -> Any:
    """Returns what a YAML or JSON document says.

    Raises:
        InvalidArgumentError: if it is neither, or a key stands twice in one mapping; with line and column.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidArgumentError(
            f"not valid YAML: {error.problem}", where=f"{where}{line}", remedy="correct that line"
        ) from None
    except RecursionError:
        raise InvalidArgumentError(
            "not a document that can be read: its blocks lie too deep in each other",
            where=where,
            remedy="close the brackets, or check that this is the file that you mean",
        ) from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"not valid YAML: {error}", where=where, remedy="give YAML or JSON text"
        ) from None


class FieldsReader:
    """Takes the fields of one mapping.

    Args:
        fields: What the user wrote.
        path: Of the mapping in its document; empty for the whole document.
        where: The document, for errors.

    Raises:
        InvalidArgumentError: if ``fields`` is not a mapping of names.
    """

    def __init__(self, fields: Any, path: str, *, where: str) -> None:
        self.path = path
        self.where = where
        if not isinstance(fields, Mapping) or not all(isinstance(key, str) for key in fields):
            raise InvalidArgumentError(
                f"{path or 'the document'} is {_shown(fields)}, but must hold fields with names",
                where=where,
                remedy="write it as `name: value` lines, indented alike",
            )
        self._fields = dict(fields)
        self._taken: list[str] = []

    def error(self, name: str, value: Any, must: str, remedy: str = "") -> InvalidArgumentError:
        """Returns the error for a field: ``must`` says what is allowed."""
        return InvalidArgumentError(
            f"{self.path_of(name)}={_shown(value)}: must be {must}",
            where=self.where,
            remedy=remedy or f"give {must}, or leave {name} out",
        )

    def path_of(self, name: str) -> str:
        """Returns a field's whole path."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Tells whether the field was given; a field without a value was not."""
        return self._take(name) is not None

    def names(self) -> list[str]:
        """Returns the names of the fields that were given."""
        return list(self._fields)

    def text(self, name: str, default: str = "") -> str:
        """Takes a text; a number, as YAML reads ``1.14``, is taken as it was written."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error(name, value, "text")
        return str(value)

    def choice(self, name: str, allowed: Sequence[str], default: str = "") -> str:
        """Takes one of the allowed words."""
        value = self.text(name, default)
        if value != default and value not in allowed:
            raise self.error(name, value, f"one of {', '.join(allowed)}", remedy=nearest_name(value, allowed))
        return value

    def integer(self, name: str, default: int = 0, *, minimum: int = 0, maximum: int | None = None) -> int:
        """Takes a whole number, also one in quotes."""
        value = self._take(name)
        if value is None:
            return default
        upper = "" if maximum is None else f" and at most {maximum}"
        must = f"a whole number, at least {minimum}{upper}"
        number = value
        whole_text = isinstance(value, str) and value.strip().isdecimal()
        if whole_text or (isinstance(value, float) and value.is_integer()):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise self.error(name, value, must)
        if number < minimum or (maximum is not None and number > maximum):
            raise self.error(name, value, must)
        return number

    def number(self, name: str) -> float | None:
        """Takes a finite number; None if it was not given."""
        value = self._take(name)
        return None if value is None else self._finite(name, value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """Takes true or false."""
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def seconds(self, name: str) -> float | None:
        """Takes a duration as ``3600s``; None if it was not given."""
        value = self._take(name)
        if value is None:
            return None
        try:
            number = float(value[:-1]) if isinstance(value, str) and value.endswith("s") else -1.0
        except ValueError:
            number = -1.0
        if not 0 < number < math.inf:
            raise self.error(name, value, "a number of seconds with the letter s, e.g. 3600s")
        return number

    def texts(self, name: str) -> tuple[str, ...]:
        """Takes a list of texts."""
        values = self.sequence(name)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise self.error(name, values, "a list of texts")
        return tuple(str(value) for value in values)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Takes a list of finite numbers."""
        return tuple(self._finite(name, value) for value in self.sequence(name))

    def sequence(self, name: str) -> list[Any]:
        """Takes a list."""
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(name, value, "a list")
        return value

    def block(self, name: str) -> "FieldsReader":
        """Takes a mapping; an empty one if it was not given."""
        value = self._take(name)
        return FieldsReader({} if value is None else value, self.path_of(name), where=self.where)

    def blocks(self, name: str) -> list["FieldsReader"]:
        """Takes a list of mappings."""
        return [
            FieldsReader(value, f"{self.path_of(name)}[{number}]", where=self.where)
            for number, value in enumerate(self.sequence(name))
        ]

    def known(self) -> list[str]:
        """Returns the names of the fields that were asked for."""
        return list(dict.fromkeys(self._taken))

    def finish(self, belongs: Mapping[str, str] = MappingProxyType({})) -> None:
        """Refuses fields that nobody took.

        Args:
            belongs: Of fields of other mappings: where they are to be written, e.g. ``below trainingInput``.

        Raises:
            InvalidArgumentError: naming the field, and the one that was probably meant or its right place.
        """
        for name in self._fields:
            if name not in self._taken:
                place = belongs.get(name)
                raise InvalidArgumentError(
                    f"there is no field {self.path_of(name)}",
                    where=self.where,
                    remedy=f"write {name} {place}, indented alike"
                    if place
                    else nearest_name(name, self.known()),
                )

    def _take(self, name: str) -> Any:
        self._taken.append(name)
        return self._fields.get(name)

    def _finite(self, name: str, value: Any) -> float:
        if isinstance(value, str):
            # YAML 1.1 takes 1e-4 for a text: it wants 1.0e-4.
            try:
                value = float(value)
            except ValueError:
                raise self.error(name, value, "a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, value, "a finite number")
        return float(value)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if value != "" else "''"
