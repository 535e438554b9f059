"""Arguments as frozen dataclasses: one place for a name, its type, default, bounds and description.

A step's arguments are a frozen dataclass whose fields are made with ``argument``. From that one
source come the component's inputs, the pipeline's inputs, the step's command line, the options of
``imgpipe run`` and the documentation. ``check_fields`` in ``__post_init__`` refuses a bad value
before any work is done.
"""

import dataclasses
import difflib
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.storage import parse_location, split_volume_uri

Arguments = TypeVar("Arguments")

# What other programs call an argument.
_OTHER_NAMES = {
    **dict.fromkeys(("lr", "lr0", "learning_rate", "base_lr"), "initial_learning_rate"),
    **dict.fromkeys(("batch", "batch_size", "bs"), "train_batch_size"),
    **dict.fromkeys(("steps", "iterations", "num_steps", "train_steps"), "max_steps"),
    **dict.fromkeys(("model", "arch", "backbone", "network_type", "net"), "model_type"),
    **dict.fromkeys(("imgsz", "img_size", "image_dim", "resolution", "input_size"), "image_size"),
    **dict.fromkeys(("data", "data_dir", "dataset", "image_dir", "train_dir", "source"), "images"),
    **dict.fromkeys(("output", "out", "output_dir", "save_dir", "log_dir", "model_dir"), "job_dir"),
    **dict.fromkeys(("optimizer", "opt"), "optimizer_type"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("patience", "early_stopping"), "early_stopping_patience"),
    **dict.fromkeys(("pretrained", "checkpoint", "init_checkpoint"), "pretrained_checkpoint_path"),
    **dict.fromkeys(("amp", "fp16", "half", "precision"), "mixed_precision"),
    **dict.fromkeys(("classes", "n_classes"), "num_classes"),
    **dict.fromkeys(("random_seed", "random_state"), "seed"),
}
_EPOCHS = (
    "the length of a training run is {max_steps}, in steps of {train_batch_size} images each; an epoch has "
    "as many steps as the training images divided by this number"
)
_DEVICES = (
    "all GPUs that TensorFlow sees are used; CUDA_VISIBLE_DEVICES selects some of them, e.g. "
    "CUDA_VISIBLE_DEVICES=0, or none if it is empty"
)
# What programs have arguments for, but this one does not.
_OTHER_CONCEPTS = {
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "max_epochs", "n_epochs"), _EPOCHS),
    **dict.fromkeys(("gpu", "gpus", "gpu_id", "gpu_ids", "device", "devices", "cuda", "num_gpus"), _DEVICES),
    **dict.fromkeys(
        ("workers", "num_workers", "threads"), "images are read with as many threads as the machine has cores"
    ),
}
# Protocol buffers, in which the platforms pass numbers, have no larger ones.
_MAX_INTEGER = 2**63 - 1


_TYPE_NAMES: Mapping[type, str] = MappingProxyType(
    {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        dict: "a JSON object",
        list: "a JSON list",
    }
)


class Group(StrEnum):
    """The section of an argument in ``--help`` and docs/arguments.md, in their order."""

    BASICS = "Basics"
    DATA = "Data"
    MODEL = "Model"
    TRAINING = "Training"
    OPTIMIZER = "Optimizer and learning rate"
    AUGMENTATION = "Augmentation and regularization"
    EVALUATION = "Evaluation and gate"
    EXPORT = "Export"
    DEPLOYMENT = "Deployment"
    TUNING = "Tuning"
    PREDICTION = "Prediction"
    LIMITS = "Limits"


class Kind(StrEnum):
    """How the text of an argument names files; an argument without a kind names none.

    ``INPUT_IMAGES`` is a folder, or patterns separated by commas. ``INPUT_PATTERNS`` are always separated
    by commas. ``INPUT_MODEL`` is a file or folder. ``EARLIER_JOB`` is a job_dir, or its name beside this
    job's.
    """

    INPUT_FILE = "input_file"
    INPUT_IMAGES = "input_images"
    INPUT_PATTERNS = "input_patterns"
    INPUT_MODEL = "input_model"
    OUTPUT_FOLDER = "output_folder"
    EARLIER_JOB = "earlier_job"


LIST_KINDS = (Kind.INPUT_IMAGES, Kind.INPUT_PATTERNS)


class RunValues(dict[str, Any]):
    """All arguments of a run by name, for the first step of a form.

    Attributes:
        pipeline: The pipeline's name in ``form.FORMS``.
        settings: Those that have no field of their own.
    """

    def __init__(self, pipeline: str, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        super().__init__({**fields, **settings})
        self.pipeline = pipeline
        self.settings = settings


def argument(
    default: Any,
    description: str,
    *,
    group: Group | None = None,
    kind: Kind | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    unset: float | None = None,
) -> Any:
    """Declares a field of an arguments dataclass.

    Args:
        default: The default value; its type (int, float, str, bool) is the argument's type.
        description: What a person filling in a form needs to know; one to three sentences, the first of
            which stands on its own.
        group: The section in which ``--help`` and docs/arguments.md list it.
        kind: How its text names files.
        minimum: Smallest value allowed.
        above: The value must be greater than this.
        maximum: Largest value allowed.
        below: The value must be less than this.
        choices: The strings that are allowed.
        unset: A number outside of the bounds that means that no value is given.
    """
    metadata = {
        "description": description,
        "group": group,
        "kind": kind,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "below": below,
        "choices": tuple(choices) if choices is not None else None,
        "unset": unset,
    }
    return dataclasses.field(default=default, metadata=metadata)


def description_of(field: "dataclasses.Field[Any]") -> str:
    """Returns the field's description with what is allowed, as the form and ``--help`` show it."""
    text = str(field.metadata["description"])
    allowed = allowed_values(field)
    return f"{text} Allowed: {allowed}." if allowed else text


def with_flags(text: str, names: Iterable[str], *, hyphens: bool = False) -> str:
    """Returns a text with each argument as a flag: ``--max_steps=0`` for ``max_steps=0``.

    A name without an underscore may also be a word, e.g. images. It is an argument in backticks, before
    ``=``, after ``set`` and ``omit``, before ``is missing`` and ``is empty``, and in a list with another one.

    Args:
        text: A description or a message.
        names: The arguments that are flags.
        hyphens: Whether flags are written as ``--max-steps 0``.
    """
    known = set(names)

    def flag(match: "re.Match[str]") -> str:
        name = match[0].strip("`")
        return f"--{name.replace('_', '-') if hyphens else name}" if name in known else match[0]

    # The longest first: a pattern takes the first that fits.
    in_list, single = _name_patterns("|".join(sorted(known, key=len, reverse=True)))
    text = in_list.sub(lambda found: re.sub(r"\w+", flag, found[0]) if "_" in found[0] else found[0], text)
    text = single.sub(flag, text)
    return re.sub(r"(--[\w-]+)=(?=\S)", r"\1 ", text) if hyphens else text


@cache
def _name_patterns(name: str) -> "tuple[re.Pattern[str], re.Pattern[str]]":
    """Returns the patterns of a list of arguments, and of one argument; ``name`` is the pattern of a name."""
    compound = "|".join(part for part in name.split("|") if "_" in part) or "(?!)"
    # Not part of a path, a flag or a dotted name, as in job_dir/model, --job-dir and hyperparameters.params,
    # nor in a value, e.g. of --tune, nor of Python.
    before, after = r"(?<![-./\w='\"])(?<!--tune )(?<!in Python: )", r"(?![-/\w])"
    separator = "(?:, | and | or )"
    in_list = rf"{before}(?:{name})(?:{separator}(?:{name}))+{after}"
    single = (
        rf"`(?:{name})`|{before}(?:(?:{name})(?==\S)|(?:{compound}){after}"
        rf"|(?:(?<=\bset )|(?<=\bomit ))(?:{name})(?= to | or |,|$)|^(?:{name})(?= is missing| is empty))"
    )
    return re.compile(in_list), re.compile(single, re.MULTILINE)


def check_fields(arguments: Any) -> None:
    """Checks and converts every field of an arguments dataclass; called from ``__post_init__``.

    A whole float is taken for an int (tuning services hand integers back as floats), an int for a
    float; nothing else is converted.

    Raises:
        InvalidArgumentError: naming every argument that is wrong, its value and what is allowed.
    """
    problems = []
    for field in dataclasses.fields(arguments):
        try:
            value = checked_value(field, getattr(arguments, field.name))
        except InvalidArgumentError as error:
            problems.append(error.problem)
        else:
            # object.__setattr__ is the documented way to convert in __post_init__ of a frozen dataclass.
            object.__setattr__(arguments, field.name, value)
    if problems:
        raise InvalidArgumentError(
            "; ".join(problems), remedy="correct the value, or omit the argument to use its default"
        )


def checked_value(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Returns a value of a field, converted as ``check_fields`` says.

    Raises:
        InvalidArgumentError: if its type is wrong or the value is not allowed.
    """
    try:
        converted = _converted(value, type(field.default))
    except (ValueError, OverflowError):
        kind = _TYPE_NAMES[type(field.default)]
        problem = ", ".join(filter(None, (f"must be {kind}", allowed_values(field))))
        if field.metadata["choices"] is not None:
            problem = "must be " + _any_of([f'"{choice}"' for choice in field.metadata["choices"]])
    else:
        if isinstance(converted, float) and not math.isfinite(converted):
            problem = "must be a finite number"
        elif isinstance(converted, int) and abs(converted) > _MAX_INTEGER:
            problem = f"must be at most {_MAX_INTEGER}, the largest number of 64 bits"
        elif not _is_allowed(field, converted):
            problem = _not_allowed(field, converted)
        elif not (problem := _location_problem(field, converted)):
            return converted
    raise InvalidArgumentError(f"{field.name}={value!r}: {problem}", remedy="correct the value")


def same_argument(arguments_class: type[Any], name: str, **other: Any) -> Any:
    """Declares an argument that another step's dataclass has: one input of the pipeline serves both.

    ``other`` may have another ``default``.
    """
    field = next(field for field in dataclasses.fields(arguments_class) if field.name == name)
    return dataclasses.field(default=other.get("default", field.default), metadata=field.metadata)


def named_field(name: str, declared: Any) -> "dataclasses.Field[Any]":
    """Gives a name to a field that is declared outside a class."""
    declared.name = name
    return declared  # type: ignore[no-any-return]


def flat_fields(arguments_classes: Iterable[type[Any]]) -> dict[str, "dataclasses.Field[Any]"]:
    """Returns the fields of several arguments dataclasses by name.

    A field that several of them have is one input: it must read the same everywhere.

    Raises:
        ValueError: if two fields of one name differ in default, bounds or description.
    """
    fields: dict[str, dataclasses.Field[Any]] = {}
    for arguments_class in arguments_classes:
        for field in dataclasses.fields(arguments_class):
            known = fields.setdefault(field.name, field)
            if (known.default, dict(known.metadata)) != (field.default, dict(field.metadata)):
                raise ValueError(f"{field.name} is declared in two ways: move it to shared_arguments.py")
    return fields


def from_values(arguments_class: type[Arguments], values: Mapping[str, Any]) -> Arguments:
    """Builds an arguments dataclass from those entries of ``values`` that are its fields."""
    names = {field.name for field in dataclasses.fields(arguments_class)}  # type: ignore[arg-type]
    return arguments_class(**{name: value for name, value in values.items() if name in names})


def parse_command_line(words: Sequence[str], arguments_classes: Iterable[type[Any]]) -> dict[str, Any]:
    """Parses ``--name=value`` and ``--name value`` for the fields of the given dataclasses.

    Hyphens and underscores in a name mean the same, as in the original algorithm (``--job-dir``,
    ``--job_dir``). A boolean may stand without a value. ``--help`` anywhere lists all arguments.

    Returns:
        The values that were given, by field name, converted to the fields' types.

    Raises:
        InvalidArgumentError: for an argument that is not a flag, an unknown or repeated flag (the nearest
            known one is named), a missing value, or a value of the wrong type.
        SystemExit: with status 0, after ``--help`` or ``-h``.
    """
    arguments_classes = list(arguments_classes)
    if "--help" in words or "-h" in words:
        print(help_text(arguments_classes))
        sys.exit(0)
    fields = {field.name: field for cls in arguments_classes for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            raise InvalidArgumentError(
                f"{word!r} is not a flag", remedy="write every argument as --name=value"
            )
        flag, equals, text = word[2:].partition("=")
        name = flag.replace("-", "_")
        if name not in fields:
            raise InvalidArgumentError(
                f"there is no argument --{flag}", remedy=nearest_name(name, fields, prefix="--")
            )
        if name in values:
            raise InvalidArgumentError(f"--{flag} is given twice", remedy="omit one of the two")
        if not equals:
            if isinstance(fields[name].default, bool) and (not remaining or remaining[0].startswith("--")):
                text = "true"
            elif remaining and not remaining[0].startswith("--"):
                text = remaining.pop(0)
            else:
                raise InvalidArgumentError(f"--{flag} has no value", remedy=f"write --{flag}=value")
        values[name] = parse_text(fields[name], text)
    return values


def help_text(arguments_classes: Iterable[type[Any]]) -> str:
    """Returns what ``--help`` prints: every argument with type, default and description."""
    paragraphs = ["Arguments, each as --name=value:"]
    fields = flat_fields(arguments_classes)
    for field in fields.values():
        default = f", default {field.default}" if field.default != "" else ""
        text = with_flags(description_of(field), fields)
        description = textwrap.fill(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        paragraphs.append(f"  --{field.name} ({type(field.default).__name__}{default})\n{description}")
    return "\n\n".join(paragraphs)


def parse_text(field: "dataclasses.Field[Any]", text: str) -> Any:
    """Converts a word of a command line to the field's type.

    Raises:
        InvalidArgumentError: if the text does not say a value of that type.
    """
    kind: Any = type(field.default)
    try:
        if kind is int and re.fullmatch(r"[+-]?\d+\.0*", text):
            # Tuning services write whole numbers as 32.0.
            text = text.partition(".")[0]
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        return kind(text)
    except (KeyError, ValueError):
        raise InvalidArgumentError(
            f"--{field.name}={text}: must be {_TYPE_NAMES[kind]}", remedy=description_of(field)
        ) from None


def nearest_name(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Returns a remedy that names what was probably meant, or else everything that is known.

    Args:
        name: What was given.
        known: The valid names.
        prefix: Of the names, for the text; with ``--``, they are written with hyphens.
    """
    known = list(known)
    near = _near_names(name, known)
    if not near and (text := _OTHER_CONCEPTS.get(_other_name(name))) and "max_steps" in known:
        return text.format(**{name: _shown(name, prefix) for name in ("max_steps", "train_batch_size")})
    if near:
        *first, last = [_shown(word, prefix) for word in near]
        return f"did you mean {', '.join(first)}{' or ' if first else ''}{last}?"
    return "valid names: " + ", ".join(_shown(word, prefix) for word in known)


def _near_names(name: str, known: Sequence[str]) -> list[str]:
    """Returns the name in another spelling, what other programs call so, or up to three similar ones."""
    same = [word for word in known if _letters(word) == _letters(name)]
    other = _OTHER_NAMES.get(_other_name(name))
    if same or other in known:
        return same or [str(other)]
    if _other_name(name) in _OTHER_CONCEPTS and "max_steps" in known:
        return []
    return difflib.get_close_matches(name, known, n=3, cutoff=0.6)


def _other_name(name: str) -> str:
    return name.replace("-", "_").lower()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _shown(name: str, prefix: str) -> str:
    return prefix + (name.replace("_", "-") if prefix == "--" else name)


def _converted(value: Any, kind: type) -> Any:
    if isinstance(value, bool):
        if kind is not bool:
            raise ValueError
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, kind):
        raise ValueError
    return value


def _location_problem(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Returns what is wrong with the URIs in the value of an argument that names files."""
    kind = field.metadata["kind"]
    if kind is None:
        return ""
    if value != value.strip():
        return "begins or ends with a space"
    try:
        for path in value.split(",") if kind in LIST_KINDS else [value]:
            # Only the pods that use a volume mount it.
            if split_volume_uri(path.strip()) is None:
                parse_location(path.strip())
    except InvalidArgumentError as error:
        # The caller names the value.
        return f"{error.problem.removeprefix(repr(value)).lstrip(': ')}; {error.remedy}"
    return ""


def _is_allowed(field: "dataclasses.Field[Any]", value: Any) -> bool:
    rules = field.metadata
    if rules["choices"] is not None:
        return value in rules["choices"]
    if rules["unset"] is not None and value == rules["unset"]:
        return True
    return (
        (rules["minimum"] is None or value >= rules["minimum"])
        and (rules["above"] is None or value > rules["above"])
        and (rules["maximum"] is None or value <= rules["maximum"])
        and (rules["below"] is None or value < rules["below"])
    )


def allowed_values(field: "dataclasses.Field[Any]") -> str:
    """Returns what the field may hold, in words; empty if it is any value of its type."""
    rules = field.metadata
    if rules["choices"] is not None:
        return ", ".join(_choices(field))
    words = {"minimum": "at least", "above": "greater than", "maximum": "at most", "below": "less than"}
    given = [f"{word} {_number(rules[rule])}" for rule, word in words.items() if rules[rule] is not None]
    if not given and isinstance(field.default, float):
        return "finite numbers"
    unset = f", or {_number(rules['unset'])}" if rules["unset"] is not None else ""
    return " and ".join(given) + unset


def _not_allowed(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Returns what a value that is not allowed must be, with the nearest choice."""
    if field.metadata["choices"] is None:
        return f"must be {allowed_values(field)}"
    choices = _choices(field)
    near = _near_names(str(value), choices)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"must be {_any_of(choices)}{meant}"


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _choices(field: "dataclasses.Field[Any]") -> list[str]:
    """Returns the choices as a list in a sentence shows them: quoted if empty or with a comma."""
    return [choice if choice and "," not in choice else f"'{choice}'" for choice in field.metadata["choices"]]


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
