"""Builds the training's command line, for jobs that start it on another machine."""

import re
from collections.abc import Sequence
from dataclasses import asdict

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.train.arguments import TrainingArguments

# The names that convert gives the shards of a split, all in one folder.
_SHARD = re.compile(r"(?P<split>.*)-\d{5}-of-(?P<count>\d{5})")


def command_line_arguments(arguments: TrainingArguments) -> list[str]:
    """Returns the command-line arguments that differ from the defaults, except job_dir."""
    values = asdict(arguments)
    return [
        f"--{name}={str(values[name]).lower() if isinstance(values[name], bool) else values[name]}"
        for name, field in flat_fields([TrainingArguments]).items()
        if values[name] != field.default and name != "job_dir"
    ]


def shards_pattern(paths: Sequence[str]) -> str:
    """Returns the pattern that matches a split's shards if convert named them, otherwise a comma list."""
    matches = [_SHARD.fullmatch(path) for path in paths]
    sets = {(match["split"], int(match["count"])) for match in matches if match}
    if all(matches) and len(sets) == 1:
        [(prefix, count)] = sets
        if count == len(paths):
            return f"{prefix}-*-of-{count:05d}"
    return ",".join(paths)
