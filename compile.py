"""Compiles every pipeline for every target into pipelines/compiled/<target>/, and docs/arguments.md.

python compile.py           writes the files
python compile.py --check   writes nothing; fails if a file is not what it would write
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler

from pipelines.arguments_reference import arguments_reference
from pipelines.batch_predict import batch_predict
from pipelines.image_classification import image_classification
from pipelines.targets.kubeflow import KUBEFLOW
from pipelines.targets.local import LOCAL
from pipelines.targets.target import Target

ROOT = Path(__file__).resolve().parent
COMPILED = Path("pipelines") / "compiled"
REFERENCE = Path("docs") / "arguments.md"
TARGETS = (LOCAL, KUBEFLOW)
PIPELINES: dict[str, Callable[[Target], Any]] = {
    "image_classification": image_classification,
    "batch_predict": batch_predict,
}


def write_files(root: Path) -> list[Path]:
    """Writes what is compiled below a project's root and returns the files, relative to it."""
    files = []
    for target in TARGETS:
        for name, build in PIPELINES.items():
            files.append(COMPILED / target.name / f"{name}.yaml")
            (root / files[-1]).parent.mkdir(parents=True, exist_ok=True)
            compiler.Compiler().compile(build(target), package_path=str(root / files[-1]))
    files.append(REFERENCE)
    (root / REFERENCE).parent.mkdir(parents=True, exist_ok=True)
    (root / REFERENCE).write_text(arguments_reference(), encoding="utf-8")
    return files


def drifted_files() -> list[Path]:
    """Returns the committed files that differ from what would be written, are missing, or are left over."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = {file: (Path(temporary) / file).read_bytes() for file in write_files(Path(temporary))}
    present = [file.relative_to(ROOT) for file in (ROOT / COMPILED).rglob("*.yaml")]
    committed = {
        file: (ROOT / file).read_bytes() for file in [*present, REFERENCE] if (ROOT / file).is_file()
    }
    return sorted(name for name in {*fresh, *committed} if fresh.get(name) != committed.get(name))


def main(arguments: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    if arguments == ["--check"]:
        drifted = drifted_files()
        for name in drifted:
            print(f"{name} is not what the code compiles to", file=sys.stderr)
        if drifted:
            print("run `make compile` and commit the result", file=sys.stderr)
        return 1 if drifted else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 64
    for file in write_files(ROOT):
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
