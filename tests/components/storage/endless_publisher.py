"""Publishes one model after the other, until it is killed: ``python endless_publisher.py FOLDER FIRST MODE``.

All files of a model contain its number. With the mode ``no-renames``, folders are not renamed.
"""

import errno
import itertools
import os
import random
import sys
import tempfile
from pathlib import Path

from imgpipe.components.common.published_model import publish_model_at
from imgpipe.components.storage import local, parse_location

FILES = ("provenance.json", "saved_model.pb", "variables/variables.index", "variables/variables.data-0")


def refuse(*paths):
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(paths[0]))


def main(folder, first, mode):
    if mode == "no-renames":
        local._exchange_or_create = refuse
    # Not parsed in the loop: importing a client takes most of the time until the first publication.
    target = parse_location(folder)
    with tempfile.TemporaryDirectory() as name:
        for number in itertools.count(int(first)):
            for file in FILES:
                path = Path(name, file)
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{number}\n" * random.choice((1, 1000)))  # noqa: S311
            publish_model_at(Path(name), target)
            print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
