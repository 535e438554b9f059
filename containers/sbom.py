"""The bill of materials of an image's Python packages, in CycloneDX, made by cyclonedx-py."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from imgpipe.components.common.errors import UnavailableError

# Prints, as tar, what the packages say of themselves.
_METADATA = (
    "cd / && find opt/imgpipe \\( -path '*.dist-info/*' -o -path '*.egg-info/*' \\) -type f "
    "| sort | tar --create --files-from -"
)
_PYTHON = "opt/imgpipe/lib"


def write_sbom(image: str, file: Path) -> int:
    """Writes the bill of materials of an image and returns how many packages it lists.

    The packages of the base's Debian are not in it: the base is published with a list of its own. The same
    image gives the same file.

    Raises:
        UnavailableError: if the image cannot be run, or cyclonedx-py fails.
    """
    command = ["docker", "run", "--rm", "--network=none", image, "sh", "-c", _METADATA]
    with tempfile.TemporaryDirectory(prefix="imgpipe-sbom-") as temporary:
        root = Path(temporary)
        with tarfile.open(fileobj=io.BytesIO(_output(command))) as archive:
            archive.extractall(root, filter="data")
        folders = [
            *(str(path) for path in (root / _PYTHON).glob("*/site-packages")),
            str(root / "opt/imgpipe/ours"),
        ]
        # cyclonedx-py asks an interpreter where its packages are; the image's own cannot run here.
        interpreter = root / "interpreter"
        interpreter.write_text(
            f"#!/bin/sh\ncat <<'FOLDERS'\n{json.dumps(folders)}\nFOLDERS\n", encoding="utf-8"
        )
        interpreter.chmod(0o755)
        file.parent.mkdir(parents=True, exist_ok=True)
        _output(
            [
                *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
                *("--output-format", "JSON", "--output-file", str(file), str(interpreter)),
            ]
        )
    return len(json.loads(file.read_text(encoding="utf-8"))["components"])


def _output(command: list[str]) -> bytes:
    result = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONUTF8": "1"})
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip()[-2000:]
        raise UnavailableError(f"{' '.join(command[:4])} ended with status {result.returncode}: {said}")
    return result.stdout
