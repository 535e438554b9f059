"""The arguments of the convert step."""

from dataclasses import dataclass

from components.common import shared_arguments
from components.common.arguments import argument, check_fields
from components.common.errors import InvalidArgumentError


@dataclass(frozen=True)
class ConvertArguments:
    """What to convert and how; exactly one of train_csv, images and training_data_path is given."""

    train_csv: str = argument(
        "",
        "CSV file of the training images: one `path,label` a line, no header line, UTF-8. Paths are "
        "relative to the folder of the CSV file, or absolute. Give this, or images, or "
        "training_data_path.",
    )
    validation_csv: str = argument(
        "",
        "CSV file of the validation images, written like train_csv. Leave it empty to set aside the "
        "share validation_fraction of train_csv. Only together with train_csv.",
    )
    labels_file: str = argument(
        "",
        "Text file with one label a line, UTF-8: line i names label i. Rows with any other label are "
        "rejected. Leave it empty to use the labels found in the data, in the order of the alphabet.",
    )
    images: str = argument(
        "",
        "Folder with one subfolder of images for each label, named like the label. If it has the "
        "subfolders train and val (or validation), each holding the label folders, these are the two "
        "splits; otherwise the share validation_fraction is set aside. Give this, or train_csv, or "
        "training_data_path.",
    )
    training_data_path: str = argument(
        "",
        "TFRecord files with the training images, as Google's converter writes them: a path with *, ? "
        "or [1-9], or several separated by commas, e.g. data/train-*. They are used where they lie, "
        "without a copy. Needs validation_data_path. Give this, or train_csv, or images.",
    )
    validation_data_path: str = argument(
        "",
        "TFRecord files with the validation images, written like training_data_path, "
        "e.g. data/validation-*. Only together with training_data_path.",
    )
    validation_fraction: float = argument(
        0.2,
        "Share of each label's images that is set aside for validation, at least one image of every label "
        "that has two. Not used when the data has a validation split of its own.",
        above=0,
        below=1,
    )
    max_rejected_fraction: float = argument(
        0.0,
        "Largest share of rows that may be rejected (a missing or damaged image, an unknown label) before "
        "the step fails. 0 = every row must be good. All rejected rows are listed in rejected.csv, with "
        "the reason.",
        minimum=0,
        maximum=1,
    )
    shard_megabytes: int = argument(
        128,
        "Size of an output file in megabytes (millions of bytes), roughly: the images are spread evenly "
        "over as many files as that takes.",
        minimum=1,
        maximum=2_000,
    )
    seed: int = shared_arguments.seed()

    def __post_init__(self) -> None:
        """Checks every value, then what goes together.

        Raises:
            InvalidArgumentError: naming the arguments that are wrong or do not go together.
        """
        check_fields(self)
        forms = ("train_csv", "images", "training_data_path")
        given = [name for name in forms if getattr(self, name)]
        for name, needed in (
            ("validation_csv", "train_csv"),
            ("validation_data_path", "training_data_path"),
            ("training_data_path", "validation_data_path"),
        ):
            if getattr(self, name) and not getattr(self, needed):
                raise InvalidArgumentError(
                    f"{name}={getattr(self, name)!r} is given without {needed}",
                    remedy=f"give {needed} too, or leave {name} out",
                )
        if not given:
            raise InvalidArgumentError(
                "no input is given",
                remedy="give one of: train_csv (a CSV file of path,label), images (a folder with one "
                "subfolder a label) or training_data_path (TFRecord files, with validation_data_path)",
            )
        if len(given) > 1:
            values = " and ".join(f"{name}={getattr(self, name)!r}" for name in given)
            raise InvalidArgumentError(
                f"{values} are given, but a data set is made from one of {', '.join(forms)}",
                remedy="keep one of them and leave the others out",
            )
