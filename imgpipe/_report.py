"""A report page: a file that a notebook shows in place."""

import html
import os
from dataclasses import dataclass
from pathlib import Path

from imgpipe.components.common.errors import must_be_readable

_FRAME_HEIGHT = 600


@dataclass(frozen=True, init=False)
class Report(os.PathLike[str]):
    """An HTML page. A path wherever one is expected; a notebook shows, and stores, the page itself.

    Attributes:
        path: The file, self-contained.
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "path", Path(path))

    def __fspath__(self) -> str:
        """Returns the file's path."""
        return str(self.path)

    def __str__(self) -> str:
        """Returns the file's path."""
        return str(self.path)

    def _repr_html_(self) -> str:
        # Sandboxed: the page shows names of files and labels, which must not act on the notebook. Its own
        # script sorts tables and shows pictures.
        with must_be_readable(f"the report {str(self.path)!r}", remedy="use the folder of a finished run"):
            page = html.escape(self.path.read_text(encoding="utf-8"))
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{page}" width="100%" height="{_FRAME_HEIGHT}" '
            'style="border: 0"></iframe>'
        )
