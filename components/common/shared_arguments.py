"""Arguments that more than one step takes, so that they read the same everywhere; each keeps its name."""

from typing import Any

from imgpipe.components.common.arguments import Group, Kind, argument
from imgpipe.components.common.dataset import TEST, VALIDATION
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

NO_TARGET, LOCAL_TARGET, KSERVE_TARGET, VERTEX_TARGET = "none", "local", "kserve", "vertex"

SEED: Any = argument(
    0,
    "Seed of everything random: the split, the order of the images, the weights. The same seed gives "
    "the same data set.",
    group=Group.DATA,
    minimum=0,
    maximum=2**31 - 1,
)
NUM_CLASSES: Any = argument(
    0,
    "Number of classes; the labels in the data must be exactly 1..num_classes. 0 = the number found in"
    " the data.",
    group=Group.DATA,
    minimum=0,
)
MULTI_LABEL: Any = argument(
    False,
    "Whether an image may have several labels, or none. Rows and records then hold a list of labels, "
    "and the model gives each label its own probability (sigmoid). Off if each image has one "
    "label.",
    group=Group.DATA,
)


def multi_label_problem(asked_for: bool) -> str:
    """Returns what is wrong where data are of the other kind than the argument ``multi_label`` says."""
    if asked_for:
        return "multi_label=true, but the data set has one label for each image"
    return "multi_label=false, but the data set is multi-label: an image has a list of labels"


def multi_label_remedy(asked_for: bool) -> str:
    """Returns what to do about ``multi_label_problem``."""
    return (
        "set multi_label=false, or convert the data with multi_label=true"
        if asked_for
        else "set multi_label=true"
    )


TRAIN_BATCH_SIZE: Any = argument(
    -1,
    "Images per training step, over all devices together. -1 = as the recipe says, usually 32.",
    group=Group.TRAINING,
    minimum=1,
    unset=-1,
)
NUM_EVAL_IMAGES: Any = argument(
    0,
    "Validation images per evaluation during training: a sample spread evenly over the data, selected "
    "by the seed and the same at every evaluation. Must not exceed the number of validation images. 0 "
    "= all.",
    group=Group.TRAINING,
    minimum=0,
)
IMAGE_SIZE: Any = argument(
    0,
    "Side in pixels of the square to which every image is resized. 0 = the recipe's or the model's own: 224 "
    "for ResNets, MobileNets and ConvNeXts, 224 to 600 for EfficientNets.",
    group=Group.MODEL,
    minimum=0,
    maximum=2048,
)
MAX_LATENCY_MS: Any = argument(
    0.0,
    "Maximum 99th-percentile latency in milliseconds of a request with one image, measured where the "
    "model is exported; a slower model fails the run. Where model_type=auto selects one of several "
    "networks, those that take longer on the training's machine are left out. 0 = no limit.",
    group=Group.EXPORT,
    minimum=0,
)
MAX_IMAGE_PIXELS: Any = argument(
    DEFAULT_MAX_IMAGE_PIXELS,
    "Largest number of pixels (width x height) of an image. It guards against small files that decode "
    "to gigapixels and exhaust memory; raise it if your images are really that large.",
    group=Group.DATA,
    minimum=1,
    # A decoder's limit: 65,535 x 65,535 is the largest JPEG.
    maximum=2**32,
)
JOB_DIR: Any = argument(
    "",
    "Folder for the run's output: the SavedModel in job_dir/model, and checkpoints in "
    "job_dir/checkpoints, from which an interrupted training run resumes. Empty = for a run on this machine "
    "a new folder, imgpipe-runs/TIME; elsewhere the model is only an artifact of the run, and an "
    "interrupted training run starts again.",
    group=Group.BASICS,
    kind=Kind.OUTPUT_FOLDER,
)
DEPLOY_DIR: Any = argument(
    "",
    "Folder for the deployed model in TensorFlow Serving's layout, with one numbered subfolder per "
    "version, e.g. serving/flowers. For kserve a gs:// or s3:// folder, or pvc://CLAIM/FOLDER on a volume "
    "that the steps mount, for vertex a gs:// folder, to which models are uploaded.",
    group=Group.DEPLOYMENT,
    kind=Kind.OUTPUT_FOLDER,
)
DEPLOY_TARGET: Any = argument(
    NO_TARGET,
    "Where to deploy a model that passes the gate: none, a local folder (deploy_dir), KServe, or a "
    "Vertex AI endpoint.",
    group=Group.DEPLOYMENT,
    choices=(NO_TARGET, LOCAL_TARGET, KSERVE_TARGET, VERTEX_TARGET),
)
VERTEX_ENDPOINT: Any = argument(
    "",
    "Address of the Vertex AI API if it is not Google's public one, e.g. a private endpoint. Empty = "
    "the region's public address.",
    group=Group.DEPLOYMENT,
)
SLICES_CSV: Any = argument(
    "",
    "CSV file, local, gs:// or s3://, that groups the images by something other than their labels, e.g. the "
    "camera. Its first line names the columns, path,camera,light; path is the image's path in the data"
    " set. Accuracy is reported for each value of each column. Empty = by image format and size only.",
    group=Group.EVALUATION,
    kind=Kind.INPUT_FILE,
)
EVALUATION_SPLIT: Any = argument(
    VALIDATION,
    "Split on which the model is evaluated. Training never sees the test split; it uses the validation "
    "split to select the best step. With validation, the accuracy on the test split, if there is one, is "
    "reported beside it; with test, the data must have a test split, or the run ends before training.",
    group=Group.EVALUATION,
    choices=(VALIDATION, TEST),
)
