"""Builds the training's command line, for jobs that start it on another machine."""

import re
from collections.abc import Sequence
from dataclasses import asdict

from imgpipe.components.train.arguments import TrainingArguments

# The names that convert gives the shards of a split, all in one folder.
_SHARD = re.compile(r"(?P<split>.*)-\d{5,}-of-(?P<count>\d{5,})")


def command_line_arguments(arguments: TrainingArguments) -> list[str]:
    """Returns the recipe, unless it is the default, and the arguments that differ from it, except job_dir."""
    defaults = {**asdict(TrainingArguments(recipe=arguments.recipe)), "recipe": TrainingArguments.recipe}
    return [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in asdict(arguments).items()
        if value != defaults[name] and name != "job_dir"
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
