"""Compiles every pipeline for every target into pipelines/compiled/<target>/, and lists their arguments.

python compile.py           writes the files
python compile.py --check   writes nothing; fails if a file is not what it would write

For a cluster or a release, with the full names of the images:
python compile.py --image-registry REGISTRY/REPOSITORY  as they are tagged there
python compile.py --images-lock FILE                    by digest; a line is `imgpipe-data: NAME@sha256:...`
python compile.py --notify-step                         on Kubeflow, with a last step that calls the webhook
python compile.py --volume CLAIM:/FOLDER                on Kubeflow, with a volume in every step
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kfp import compiler

from imgpipe.components.common.errors import InvalidArgumentError, OutputError, PipelineError
from imgpipe.components.common.fields_reader import read_text
from imgpipe.pipelines.arguments_reference import arguments_reference
from imgpipe.pipelines.builders import builders_of
from imgpipe.pipelines.form_reference import form_reference
from imgpipe.pipelines.images import Images, read_images_lock
from imgpipe.pipelines.kubeflow_options import NO_ADDITIONS, KubeflowOptions, kubeflow_options
from imgpipe.pipelines.option_types import option_types
from imgpipe.pipelines.targets.kubeflow import kubeflow_target
from imgpipe.pipelines.targets.local import LOCAL
from imgpipe.pipelines.targets.vertex import VERTEX

ROOT = Path(__file__).resolve().parent
COMPILED = Path("pipelines") / "compiled"
# Also made of the arguments dataclasses.
TEXTS: dict[Path, Callable[[], str]] = {
    Path("docs") / "arguments.md": arguments_reference,
    Path("docs") / "kubeflow-form.md": form_reference,
    Path("imgpipe") / "_arguments.py": option_types,
}


def write_files(root: Path, images: Images, kubeflow: KubeflowOptions = NO_ADDITIONS) -> list[Path]:
    """Writes what is compiled below a project's root and returns the files, relative to it."""
    files = []
    for target in (LOCAL, kubeflow_target(kubeflow), VERTEX):
        for name, build in builders_of(target).items():
            files.append(COMPILED / target.name / f"{name}.yaml")
            (root / files[-1]).parent.mkdir(parents=True, exist_ok=True)
            compiler.Compiler().compile(build(target, images), package_path=str(root / files[-1]))
    for file, text in TEXTS.items():
        files.append(file)
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text(), encoding="utf-8")
    return files


def drifted_files(images: Images, kubeflow: KubeflowOptions = NO_ADDITIONS) -> list[Path]:
    """Returns the committed files that differ from what would be written, are missing, or are left over."""
    with tempfile.TemporaryDirectory() as temporary:
        files = write_files(Path(temporary), images, kubeflow)
        fresh = {file: (Path(temporary) / file).read_bytes() for file in files}
    present = [file.relative_to(ROOT) for file in (ROOT / COMPILED).rglob("*.yaml")]
    committed = {file: (ROOT / file).read_bytes() for file in [*present, *TEXTS] if (ROOT / file).is_file()}
    return sorted(name for name in {*fresh, *committed} if fresh.get(name) != committed.get(name))


def main(words: list[str]) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        "compile.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--notify-step", action="store_true")
    parser.add_argument("--volume", action="append", default=[], metavar="CLAIM:/FOLDER")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--image-registry", default="", metavar="REGISTRY/REPOSITORY")
    names.add_argument("--images-lock", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    if sys.flags.optimize > 1:
        print(
            "the compiled files contain docstrings: run this without -OO and PYTHONOPTIMIZE", file=sys.stderr
        )
        return InvalidArgumentError.exit_code
    try:
        lock = {}
        if options.images_lock:
            lock = read_images_lock(read_text(options.images_lock), where=str(options.images_lock))
        images = Images(options.image_registry, lock)
        kubeflow = kubeflow_options(notify_step=options.notify_step, volumes=options.volume)
        drifted = drifted_files(images, kubeflow) if options.check else []
        written = [] if options.check else write_files(ROOT, images, kubeflow)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"cannot write {str(error.filename)!r}: {error.strerror}", file=sys.stderr)
        return OutputError.exit_code
    for file in written:
        print(file)
    for name in drifted:
        print(f"{name} is not what the code compiles to", file=sys.stderr)
    if drifted:
        print("run `make compile` and commit the result", file=sys.stderr)
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
