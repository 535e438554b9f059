"""``python -m imgpipe.components.serve.health``: the image's health check, whether the server answers.

Exit status 0 if it does, or if the container runs something else than the server: a step has no health to ask
for.
"""

import sys
import urllib.request
from pathlib import Path

from imgpipe.components.common.arguments import parse_command_line
from imgpipe.components.serve.arguments import ServeArguments

_FIRST_PROCESS = Path("/proc/1/cmdline")
_SECONDS = 4.0


def main(command_file: Path = _FIRST_PROCESS) -> int:
    """Asks the server that the container's first process is, and returns the exit status.

    Args:
        command_file: Of the first process: words, each ended by a zero byte.
    """
    words = command_file.read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    if "imgpipe.components.serve" not in words:
        return 0
    flags = words[words.index("imgpipe.components.serve") + 1 :]
    arguments = ServeArguments(**parse_command_line(flags, [ServeArguments]))
    # 0.0.0.0 is every address, this one too.
    host = "127.0.0.1" if arguments.host in ("0.0.0.0", "::", "") else arguments.host  # noqa: S104
    try:
        # Past any proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{host}:{arguments.port}/healthz", timeout=_SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"the server does not answer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
