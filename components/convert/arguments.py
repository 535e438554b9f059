"""The arguments of the convert step."""

from dataclasses import dataclass
from functools import partial

from imgpipe.components.common import shared_arguments
from imgpipe.components.common.arguments import Group, Kind, argument, check_fields
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_BYTES

# Values of label_from.
AUTO, LEAF, TOP = "auto", "leaf", "top"
# Roles of columns in columns.
PATH, LABEL, SPLIT, GROUP = "path", "label", "split", "group"

_basic_argument = partial(argument, group=Group.BASICS)
_data_argument = partial(argument, group=Group.DATA)


@dataclass(frozen=True)
class ConvertArguments:
    """Input data and conversion settings; exactly one of train_csv, images and training_data_path is set."""

    images: str = _basic_argument(
        "",
        "Folder, local, gs:// or s3://, with one subfolder of images per label. Subfolders named train, val "
        "and test, or similarly, are read as splits if each of them has the label folders; without val, "
        "validation_fraction of the images is set aside. May also be a pattern such as photos/*/*.jpg or "
        "photos/**/*.jpg: an image's label is then the name of its folder. Give exactly one of images, "
        "train_csv and training_data_path.",
        kind=Kind.INPUT_IMAGES,
    )
    label_from: str = _basic_argument(
        AUTO,
        "Which folder of `images` is an image's label, where label folders contain folders: top = the first "
        "folder below `images` or below the split, leaf = the folder that holds the image. auto = leaf for "
        "a pattern, top for a folder; an error if the label folders contain several folders with images.",
        choices=(AUTO, LEAF, TOP),
    )
    train_csv: str = _basic_argument(
        "",
        "CSV file that lists the training images, one `path,label` per line, UTF-8; or with the names of "
        "the columns in the first line. If one of them is named group (a person, patient or burst of "
        "pictures), rows with the same group stay in one split. Import files of Vertex AI work too: CSV "
        "with a leading ml_use column (training, validation, test), or .jsonl. Paths are local, gs:// or "
        "s3://, absolute or relative to the file's folder or image_root. With multi_label a row may have "
        "any number of labels: path,label,label,... Give exactly one of images, train_csv and "
        "training_data_path.",
        kind=Kind.INPUT_FILE,
    )
    columns: str = _data_argument(
        "",
        "Columns of the CSV files: path=NAME,label=NAME and, optionally, split=NAME (train, val or test) and "
        "group=NAME (rows with the same group stay in one split), with names in the first line, or numbers "
        "from 1. Other columns are ignored. With multi_label, label may be repeated. Empty = path,label, or "
        "what the first line says. Requires train_csv.",
    )
    image_root: str = _data_argument(
        "",
        "Folder of the relative paths in the lists, local, gs:// or s3://. Empty = the folder of the list. "
        "Requires train_csv.",
        kind=Kind.INPUT_IMAGES,
    )
    multi_label: bool = shared_arguments.MULTI_LABEL
    validation_csv: str = _basic_argument(
        "",
        "File that lists the validation images, in the format of train_csv. Leave it empty if train_csv "
        "assigns rows to validation, or to set aside validation_fraction of the images. Requires "
        "train_csv.",
        kind=Kind.INPUT_FILE,
    )
    test_csv: str = _data_argument(
        "",
        "File that lists the test images, in the format of train_csv; training does not use them. Requires"
        " train_csv.",
        kind=Kind.INPUT_FILE,
    )
    labels_file: str = _data_argument(
        "",
        "UTF-8 text file with one label per line: line i names label i. Rows with any other label are "
        "rejected. Empty = the labels found in the data, in alphabetical order.",
        kind=Kind.INPUT_FILE,
    )
    decisions: str = _data_argument(
        "",
        "CSV file of `imgpipe audit` with what you decided about images, in the column action: drop, "
        "relabel:LABEL, or keep (or nothing). Requires images or train_csv.",
        kind=Kind.INPUT_FILE,
    )
    training_data_path: str = _basic_argument(
        "",
        "TFRecord files with the training images, as Google's converter writes them: a path with *, ? or "
        "[1-9], or several separated by commas, e.g. data/train-*. They are read in place, without a copy."
        " Requires validation_data_path. Give exactly one of images, train_csv and training_data_path.",
        kind=Kind.INPUT_PATTERNS,
    )
    validation_data_path: str = _basic_argument(
        "",
        "TFRecord files with the validation images, in the format of training_data_path, e.g. "
        "data/validation-*. Requires training_data_path.",
        kind=Kind.INPUT_PATTERNS,
    )
    test_data_path: str = _data_argument(
        "",
        "TFRecord files with the test images, in the format of training_data_path; training does not use "
        "them. Requires training_data_path.",
        kind=Kind.INPUT_PATTERNS,
    )
    validation_fraction: float = _data_argument(
        0.2,
        "Fraction of each label's images that is set aside for validation: at least one image of every "
        "label that has two. Ignored if the data has a validation split.",
        above=0,
        below=1,
    )
    test_fraction: float = _data_argument(
        0.0,
        "Fraction of each label's images that is set aside for testing; training does not use them. "
        "Applies only if validation images are set aside too. 0 = none.",
        minimum=0,
        below=1,
    )
    group_near_duplicates: bool = _data_argument(
        True,
        "Whether images that are set aside are drawn together with their near-duplicates (scaled, "
        "recompressed or slightly cropped copies), so that a model is not tested with copies of images that "
        "it was trained on. Reads every image once more. Equal files and the rows of a group always stay "
        "together.",
    )
    output_dir: str = _data_argument(
        "",
        "Folder, local, gs:// or s3://, for the shards and their manifest, for large data: the step's "
        "artifact then only refers to the shards. It must be empty or not exist, or contain an interrupted "
        "conversion, which is resumed, or the finished data set of the same input, which is reused "
        "unchanged. Empty = in the step's artifact, beside the manifest.",
        kind=Kind.OUTPUT_FOLDER,
    )
    max_rejected_fraction: float = _data_argument(
        0.0,
        "Largest fraction of rows that may be rejected (missing or damaged image, unknown label) before "
        "the step fails. 0 = none. rejected.csv lists every rejected row with the reason.",
        minimum=0,
        maximum=1,
    )
    shard_megabytes: int = _data_argument(
        128,
        "Approximate size of a shard in megabytes (millions of bytes); the images are spread evenly over "
        "the shards.",
        minimum=1,
        maximum=2_000,
    )
    max_image_pixels: int = shared_arguments.MAX_IMAGE_PIXELS
    max_image_bytes: int = _data_argument(
        DEFAULT_MAX_IMAGE_BYTES,
        "Largest image file in bytes; a row with a larger one is rejected.",
        minimum=1,
        # A record is a protocol buffer, which is limited to 2 GiB.
        maximum=2_000_000_000,
    )
    seed: int = shared_arguments.SEED

    def __post_init__(self) -> None:
        """Checks every value, then the combinations.

        Raises:
            InvalidArgumentError: naming the arguments that are invalid or cannot be combined.
        """
        check_fields(self)
        forms = ("train_csv", "images", "training_data_path")
        given = [name for name in forms if getattr(self, name)]
        for name, needed in (
            ("validation_csv", "train_csv"),
            ("test_csv", "train_csv"),
            ("columns", "train_csv"),
            ("image_root", "train_csv"),
            ("validation_data_path", "training_data_path"),
            ("training_data_path", "validation_data_path"),
            ("test_data_path", "training_data_path"),
        ):
            if getattr(self, name) and not getattr(self, needed):
                raise InvalidArgumentError(
                    f"{name}={getattr(self, name)!r} is given without {needed}",
                    remedy=f"set {needed} too, or remove {name}",
                )
        if not given:
            raise InvalidArgumentError(
                "no input is given",
                remedy="set one of: train_csv=FILE (path,label rows), images=FOLDER (with one subfolder "
                "per label) or training_data_path=FILES (TFRecord files, with validation_data_path)",
            )
        if self.decisions and self.training_data_path:
            raise InvalidArgumentError(
                f"decisions={self.decisions!r} cannot be combined with training_data_path: TFRecord files "
                "are used as they are",
                remedy="give the images that the files were made from, or omit decisions",
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise InvalidArgumentError(
                f"validation_fraction={self.validation_fraction:g} and test_fraction={self.test_fraction:g} "
                "leave no image for training",
                remedy="choose fractions that add up to less than 1",
            )
        if self.multi_label and self.images:
            raise InvalidArgumentError(
                f"images={self.images!r} cannot be combined with multi_label=true: in a folder an image has "
                "one label, the folder's name",
                remedy="list the images with their labels in train_csv, or set multi_label to false",
            )
        if self.label_from != AUTO and not self.images:
            raise InvalidArgumentError(
                f"label_from={self.label_from} is given without images",
                remedy="remove label_from: lists and records contain the labels",
            )
        parse_columns(self.columns)
        if len(given) > 1:
            values = " and ".join(f"{name}={getattr(self, name)!r}" for name in given)
            raise InvalidArgumentError(
                f"{values} are given, but a data set is made from only one of {', '.join(forms)}",
                remedy="keep one of them and remove the others",
            )


def parse_columns(text: str) -> dict[str, list[str]]:
    """Returns the names or numbers in ``path=NAME,label=NAME,split=NAME,group=NAME``, by role.

    Raises:
        InvalidArgumentError: if the text has another form.
    """
    columns: dict[str, list[str]] = {}
    for part in text.split(",") if text else ():
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if role not in (PATH, LABEL, SPLIT, GROUP) or not equals or not name:
            raise InvalidArgumentError(
                f"columns={text!r}: {part.strip()!r} is not path=NAME, label=NAME, split=NAME or group=NAME",
                remedy="write the names of the columns, or their numbers from 1: "
                "'columns=path=file_name,label=species'",
            )
        columns.setdefault(role, []).append(name)
    for role in (PATH, LABEL) if columns else ():
        if role not in columns:
            raise InvalidArgumentError(
                f"columns={text!r} does not say which column is the {role}", remedy=f"add {role}=NAME"
            )
    for role in (PATH, SPLIT, GROUP):
        if len(columns.get(role, ())) > 1:
            raise InvalidArgumentError(f"columns={text!r} has {role} twice", remedy="keep one of the two")
    return columns
