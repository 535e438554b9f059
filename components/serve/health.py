"""``python -m imgpipe.components.serve.health``: the image's health check, a request to the server.

Exit status 0 if the server responds, or if the container runs a step instead of the server.
"""

import sys
import urllib.request
from pathlib import Path

from imgpipe.components.common.arguments import parse_command_line
from imgpipe.components.serve.arguments import ServeArguments

_FIRST_PROCESS = Path("/proc/1/cmdline")
_SECONDS = 4.0


def main(command_file: Path = _FIRST_PROCESS) -> int:
    """Sends a request to the server that runs as the container's first process; returns the exit status.

    Args:
        command_file: The first process's command line, each argument followed by a zero byte.
    """
    command = command_file.read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    if "imgpipe.components.serve" not in command:
        return 0
    flags = command[command.index("imgpipe.components.serve") + 1 :]
    arguments = ServeArguments(**parse_command_line(flags, [ServeArguments]))
    # 0.0.0.0 is every address, including the local one.
    host = "127.0.0.1" if arguments.host in ("0.0.0.0", "::", "") else arguments.host  # noqa: S104
    try:
        # Ignores the proxies of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{host}:{arguments.port}/healthz", timeout=_SECONDS) as response:
            return 0 if response.status == 200 else 1
    except OSError as error:
        print(f"the server does not respond: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
