"""Reports what a benchmark needs before it starts, and ends it immediately if something is missing."""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.weight_files import check_weights


def check_needs(
    *,
    minutes: float,
    disk_gb: float = 0.1,
    packages: Sequence[str] = (),
    weights: Mapping[str, int] | None = None,
) -> None:
    """Prints what a benchmark needs; exits with status 2 if this machine does not have it.

    Args:
        minutes: How long it takes on two cores.
        disk_gb: Temporary disk space in gigabytes.
        packages: Packages to import besides the project's.
        weights: Image sizes by the networks whose ImageNet weights it loads.
    """
    weights = weights or {}
    folder = tempfile.gettempdir()
    needs = [f"{disk_gb:g} GB of disk in {folder}", *packages]
    needs += [f"the ImageNet weights of {model_type}" for model_type in weights]
    print(f"takes about {minutes:g} minutes on two cores; needs {', '.join(needs)}", flush=True)
    missing = [
        f"the package {name} is not installed" for name in packages if not importlib.util.find_spec(name)
    ]
    free = shutil.disk_usage(folder).free / 1e9
    if free < disk_gb:
        missing.append(f"{folder} has {free:.1f} GB of free disk space; set TMPDIR to another folder")
    for model_type, size in weights.items():
        try:
            check_weights(TrainingArguments(model_type=model_type, weights="imagenet", image_size=size))
        except UnavailableError as error:
            missing.append(str(error))
    if missing:
        print("\n".join(["cannot start:", *missing]), file=sys.stderr)
        sys.exit(2)
