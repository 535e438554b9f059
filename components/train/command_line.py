"""The words of the training's command line, for those who start it on another machine."""

import re
from collections.abc import Sequence
from dataclasses import asdict

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.train.arguments import TrainingArguments

# As convert names its shards, all of one split in one folder.
_SHARD = re.compile(r"(?P<split>.*)-\d{5}-of-(?P<count>\d{5})")


def argument_words(arguments: TrainingArguments) -> list[str]:
    """Returns the words of a command line that are not the training's defaults, without job_dir."""
    given = asdict(arguments)
    return [
        f"--{name}={str(given[name]).lower() if isinstance(given[name], bool) else given[name]}"
        for name, field in flat_fields([TrainingArguments]).items()
        if given[name] != field.default and name != "job_dir"
    ]


def pattern_of(paths: Sequence[str]) -> str:
    """Returns the files of a split as the training's command line takes them, short also for many shards."""
    matches = [_SHARD.fullmatch(path) for path in paths]
    kinds = {(match["split"], int(match["count"])) for match in matches if match}
    if all(matches) and len(kinds) == 1:
        [(prefix, count)] = kinds
        if count == len(paths):
            return f"{prefix}-*-of-{count:05d}"
    return ",".join(paths)
