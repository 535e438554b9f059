"""Compiles every pipeline for every target into pipelines/compiled/<target>/.

python compile.py           writes the files
python compile.py --check   writes nothing; fails if a file is not what it would write
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler

from pipelines.image_classification import image_classification
from pipelines.targets.kubeflow import KUBEFLOW
from pipelines.targets.local import LOCAL
from pipelines.targets.target import Target

COMPILED = Path(__file__).parent / "pipelines" / "compiled"
TARGETS = (LOCAL, KUBEFLOW)
PIPELINES: dict[str, Callable[[Target], Any]] = {"image_classification": image_classification}


def compile_pipelines(folder: Path) -> list[Path]:
    """Writes ``<target>/<pipeline>.yaml`` below the folder and returns the files."""
    files = []
    for target in TARGETS:
        for name, build in PIPELINES.items():
            file = folder / target.name / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            compiler.Compiler().compile(build(target), package_path=str(file))
            files.append(file)
    return files


def drifted_files() -> list[Path]:
    """Returns the committed files that differ from what would be written, are missing, or are left over."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = {
            file.relative_to(temporary): file.read_bytes() for file in compile_pipelines(Path(temporary))
        }
    committed = {file.relative_to(COMPILED): file.read_bytes() for file in COMPILED.rglob("*.yaml")}
    return sorted(name for name in {*fresh, *committed} if fresh.get(name) != committed.get(name))


def main(arguments: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    if arguments == ["--check"]:
        drifted = drifted_files()
        for name in drifted:
            print(f"pipelines/compiled/{name} is not what the code compiles to", file=sys.stderr)
        if drifted:
            print("run `make compile` and commit the result", file=sys.stderr)
        return 1 if drifted else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 64
    for file in compile_pipelines(COMPILED):
        print(file.relative_to(COMPILED.parent.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
