"""Weight files that lie where Keras would not look: in a folder that cannot be written to."""

import os
from pathlib import Path

# Where Keras (keras.utils.get_file) looks in place of a $KERAS_HOME that it cannot write to.
_SUBSTITUTE = Path("/tmp/.keras")  # noqa: S108 - Keras' choice


def link_weight_files(substitute: Path = _SUBSTITUTE) -> int:
    """Makes Keras find the weights of ImageNet in a ``$KERAS_HOME`` that cannot be written to.

    So they lie in an image, or on a volume that is mounted read-only. A link to each file is made where Keras
    looks instead; a file that is there stays. Without ``KERAS_HOME``, or where it can be written to, nothing
    is done.

    Returns:
        How many links were made.
    """
    home = os.environ.get("KERAS_HOME", "")
    models = Path(home).expanduser() / "models"
    if not home or os.access(home, os.W_OK) or not models.is_dir():
        return 0
    links = 0
    for file in sorted(models.iterdir()):
        link = substitute / "models" / file.name
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
            links += 1
    return links
