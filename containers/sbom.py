"""The bill of materials of an image's Python packages, in CycloneDX, made by cyclonedx-py."""

import io
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from containers.docker import run

# Writes the packages' metadata to stdout, as a tar file.
_METADATA = (
    "cd / && find opt/imgpipe \\( -path '*.dist-info/*' -o -path '*.egg-info/*' \\) -type f "
    "| sort | tar --create --files-from -"
)
_PYTHON = "opt/imgpipe/lib"


def write_sbom(image: str, file: Path) -> int:
    """Writes the bill of materials of an image and returns how many packages it lists.

    It excludes the Debian packages of the base image, which is published with its own bill of materials. The
    same image gives the same file.

    Raises:
        UnavailableError: if the image cannot be run, or cyclonedx-py fails.
    """
    command = ["docker", "run", "--rm", "--network=none", image, "sh", "-c", _METADATA]
    with tempfile.TemporaryDirectory(prefix="imgpipe-sbom-") as temporary:
        root = Path(temporary)
        with tarfile.open(fileobj=io.BytesIO(run(command))) as archive:
            archive.extractall(root, filter="data")
        folders = [
            *(str(path) for path in (root / _PYTHON).glob("*/site-packages")),
            str(root / "opt/imgpipe/ours"),
        ]
        # cyclonedx-py runs an interpreter to list its package folders; the image's own cannot run here.
        interpreter = root / "interpreter"
        interpreter.write_text(
            f"#!/bin/sh\ncat <<'FOLDERS'\n{json.dumps(folders)}\nFOLDERS\n", encoding="utf-8"
        )
        interpreter.chmod(0o755)
        file.parent.mkdir(parents=True, exist_ok=True)
        run(
            [
                *(sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"),
                *("--output-format", "JSON", "--output-file", str(file), str(interpreter)),
            ],
            {**os.environ, "PYTHONUTF8": "1"},
        )
    return len(json.loads(file.read_text(encoding="utf-8"))["components"])
