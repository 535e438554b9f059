"""Pictures that the tests draw: smooth noise, of which each is different."""

import io
import subprocess
import sys

import numpy as np
from PIL import Image

from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.train.weight_files import weights_file_name


def picture(seed, side=160):
    """Returns a picture of blobs and fine detail."""
    draw = np.random.default_rng(seed)
    pixels = sum(
        np.asarray(
            Image.fromarray(draw.integers(0, 255, (size, size, 3), dtype=np.uint8)).resize((side, side)),
            float,
        )
        * weight
        for size, weight in ((4, 0.5), (16, 0.3), (side, 0.2))
    )
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, image_format="JPEG", **options):
    """Returns the file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_random_weights(keras_home):
    """Writes weights of mobilenet-v2, which cannot be downloaded here, and returns the folder."""
    file = keras_home / "models" / weights_file_name("mobilenet-v2", 224)
    file.parent.mkdir(parents=True)
    code = (
        "import sys, h5py\n"
        "from imgpipe.components.common.tf_import import keras\n"
        "from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group\n"
        "shape = (224, 224, 3)\n"
        "network = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=shape)\n"
        "with h5py.File(sys.argv[1], 'w') as file: save_weights_to_hdf5_group(file, network)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    return keras_home


def data_set(folder, files):
    """Converts files, by their path below ``images``, and returns the folder of the data set."""
    for path, data in files.items():
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / path).write_bytes(data)
    convert(ConvertArguments(images=str(folder / "images")), folder / "data")
    return folder / "data"
