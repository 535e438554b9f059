"""The options of the Python API. Written by `make compile` from the code; do not edit."""

import os
from typing import TypedDict

Path = str | os.PathLike[str]


class ConvertOptions(TypedDict, total=False):
    """Options of ``imgpipe.convert``."""

    images: Path
    """Folder, local or gs://, with one subfolder of images per label. The subfolders train and val (or
    validation, or valid), and optionally test, are read as splits if each of them has the label
    folders; otherwise validation_fraction of the images is set aside. May also be a pattern such as
    photos/*/*.jpg: an image's label is then the name of its folder. Give exactly one of images,
    train_csv and training_data_path.
    """

    train_csv: Path
    """CSV file that lists the training images, one `path,label` per line, UTF-8, without a header.
    Import files of Vertex AI work too: CSV with a leading ml_use column (training, validation, test),
    or .jsonl. Paths are local or gs://, absolute or relative to the file's folder. With multi_label a
    row may have any number of labels: path,label,label,... Give exactly one of images, train_csv and
    training_data_path.
    """

    multi_label: bool
    """Whether an image may have several labels, or none. Rows and records then hold a list of labels,
    and the model gives each label its own probability (sigmoid). Leave it off if each image has one
    label. Default: False.
    """

    validation_csv: Path
    """File that lists the validation images, in the format of train_csv. Leave it empty if train_csv
    assigns rows to validation, or to set aside validation_fraction of the images. Requires train_csv.
    """

    test_csv: Path
    """File that lists the test images, in the format of train_csv; training does not use them. Requires
    train_csv.
    """

    labels_file: Path
    """UTF-8 text file with one label per line: line i names label i. Rows with any other label are
    rejected. Empty = the labels found in the data, in alphabetical order.
    """

    training_data_path: Path
    """TFRecord files with the training images, as Google's converter writes them: a path with *, ? or
    [1-9], or several separated by commas, e.g. data/train-*. They are read in place, without a copy.
    Requires validation_data_path. Give exactly one of images, train_csv and training_data_path.
    """

    validation_data_path: Path
    """TFRecord files with the validation images, in the format of training_data_path, e.g.
    data/validation-*. Requires training_data_path.
    """

    validation_fraction: float
    """Fraction of each label's images that is set aside for validation: at least one image of every
    label that has two. Ignored if the data has a validation split. Allowed: greater than 0 and less
    than 1. Default: 0.2.
    """

    test_fraction: float
    """Fraction of each label's images that is set aside for testing; training does not use them.
    Applies only if validation images are set aside too. 0 = none. Allowed: at least 0 and less than 1.
    Default: 0.0.
    """

    max_rejected_fraction: float
    """Largest fraction of rows that may be rejected (missing or damaged image, unknown label) before
    the step fails. 0 = none. rejected.csv lists every rejected row with the reason. Allowed: at least 0
    and at most 1. Default: 0.0.
    """

    shard_megabytes: int
    """Approximate size of a shard in megabytes (millions of bytes); the images are spread evenly over
    the shards. Allowed: at least 1 and at most 2000. Default: 128.
    """

    max_image_pixels: int
    """Largest number of pixels (width x height) of an image. It guards against small files that decode
    to gigapixels and exhaust memory; raise it if your images are really that large. Allowed: at least 1
    and at most 4294967296. Default: 100000000.
    """

    max_image_bytes: int
    """Largest image file in bytes; a row with a larger one is rejected. Allowed: at least 1 and at most
    2000000000. Default: 100000000.
    """

    seed: int
    """Seed of everything random: the split, the order of the images, the weights. The same seed gives
    the same data set. Allowed: at least 0 and at most 2147483647. Default: 0.
    """


class ValidateOptions(TypedDict, total=False):
    """Options of ``imgpipe.validate``."""

    num_classes: int
    """Number of classes; the labels in the data must be exactly 1..num_classes. 0 = the number found in
    the data. Allowed: at least 0. Default: 0.
    """

    multi_label: bool
    """Whether an image may have several labels, or none. Rows and records then hold a list of labels,
    and the model gives each label its own probability (sigmoid). Leave it off if each image has one
    label. Default: False.
    """

    train_batch_size: int
    """Images per training step, over all devices together. Allowed: at least 1. Default: 32."""

    num_eval_images: int
    """Validation images per evaluation during training: a sample spread evenly over the data, selected
    by the seed and the same at every evaluation. Must not exceed the number of validation images. 0 =
    all. Allowed: at least 0. Default: 0.
    """

    model_type: str
    """The network. mobilenet-v2 is the smallest and fastest, then resnet-18 and efficientnet-b0; within
    a family, a larger number means more accurate and slower. resnet-18, resnet-34 and resnet-200 have
    no ImageNet weights. Allowed: resnet-18, resnet-34, resnet-50, resnet-101, resnet-152, resnet-200,
    efficientnet-b0, efficientnet-b1, efficientnet-b2, efficientnet-b3, efficientnet-b4,
    efficientnet-b5, efficientnet-b6, efficientnet-b7, mobilenet-v2, efficientnet-v2-b0,
    efficientnet-v2-b1, efficientnet-v2-b2, efficientnet-v2-b3, efficientnet-v2-s, efficientnet-v2-m,
    efficientnet-v2-l. Default: efficientnet-b0.
    """

    image_size: int
    """Side in pixels of the square to which every image is resized. 0 = the model's own: 224 for
    ResNets and MobileNet, 224 to 600 for EfficientNets. Allowed: at least 0 and at most 2048. Default:
    0.
    """

    max_image_pixels: int
    """Largest number of pixels (width x height) of an image. It guards against small files that decode
    to gigapixels and exhaust memory; raise it if your images are really that large. Allowed: at least 1
    and at most 4294967296. Default: 100000000.
    """


class RunOptions(ConvertOptions, total=False):
    """Options of ``imgpipe.run``."""

    output_dir: Path
    """Folder, local or gs://, for the shards and their manifest, for large data: the step's artifact
    then only refers to the shards. It must be empty or not exist, or contain an interrupted conversion,
    which is resumed, or the finished data set of the same input, which is reused unchanged. Empty = in
    the step's artifact, beside the manifest.
    """

    job_dir: Path
    """Folder for the run's output: the SavedModel in job_dir/model, and checkpoints in
    job_dir/checkpoints, from which an interrupted training resumes. Empty = the model is only an
    artifact of the run, and an interrupted training starts again.
    """

    max_latency_ms: float
    """Maximum 99th-percentile latency in milliseconds of a request with one image, measured by the
    export step on its own machine; a slower model fails the step. 0 = no limit. Allowed: at least 0.
    Default: 0.0.
    """

    export_formats: str
    """Additional formats of the model, separated by commas: tflite, tflite-int8 (calibrated with
    training images), onnx. Each is measured on the evaluation's images and written to formats/ beside
    the SavedModel; its input is decoded pixels, uint8. Empty = none.
    """

    model_type: str
    """The network. mobilenet-v2 is the smallest and fastest, then resnet-18 and efficientnet-b0; within
    a family, a larger number means more accurate and slower. resnet-18, resnet-34 and resnet-200 have
    no ImageNet weights. Allowed: resnet-18, resnet-34, resnet-50, resnet-101, resnet-152, resnet-200,
    efficientnet-b0, efficientnet-b1, efficientnet-b2, efficientnet-b3, efficientnet-b4,
    efficientnet-b5, efficientnet-b6, efficientnet-b7, mobilenet-v2, efficientnet-v2-b0,
    efficientnet-v2-b1, efficientnet-v2-b2, efficientnet-v2-b3, efficientnet-v2-s, efficientnet-v2-m,
    efficientnet-v2-l. Default: efficientnet-b0.
    """

    max_steps: int
    """Total number of training steps (batches). Allowed: at least 1. Default: 1000."""

    train_batch_size: int
    """Images per training step, over all devices together. Allowed: at least 1. Default: 32."""

    num_classes: int
    """Number of classes; the labels in the data must be exactly 1..num_classes. 0 = the number found in
    the data. Allowed: at least 0. Default: 0.
    """

    num_eval_images: int
    """Validation images per evaluation during training: a sample spread evenly over the data, selected
    by the seed and the same at every evaluation. Must not exceed the number of validation images. 0 =
    all. Allowed: at least 0. Default: 0.
    """

    image_size: int
    """Side in pixels of the square to which every image is resized. 0 = the model's own: 224 for
    ResNets and MobileNet, 224 to 600 for EfficientNets. Allowed: at least 0 and at most 2048. Default:
    0.
    """

    weights: str
    """Initial weights: imagenet (pretrained on ImageNet; needs far fewer images of your own) or none
    (random; all layers are trained). Allowed: imagenet, none. Default: imagenet.
    """

    pretrained_checkpoint_path: Path
    """Initial weights from a file or folder, local or gs://: a SavedModel folder of imgpipe, a folder
    of numbered versions (the highest is used), a checkpoints folder, or a Keras file (.weights.h5,
    .keras). If the number of classes differs, the last layer starts from random weights. Empty = as
    weights says.
    """

    freeze: str
    """What is not trained: none (the whole network is trained), backbone (only the last layer is
    trained; many times faster, and safer with few images), or all layers up to and including a part of
    the network: stem, stage1, stage2 and so on (ResNets have 4 stages, other networks 6 or 7). Requires
    pretrained weights. Default: none.
    """

    augmentation: str
    """Random changes of the training images: none, crop-flip (a random crop of at least 8 percent of
    the image, flipped half of the time; usual for photos) or randaugment (crop-flip, then two random
    changes of colour or geometry). Allowed: none, crop-flip, randaugment. Default: none.
    """

    mixup: float
    """Blends pairs of training images and their labels; the ratio is drawn from Beta(mixup, mixup). 0 =
    off; usual values are 0.1 to 0.4. Allowed: at least 0. Default: 0.0.
    """

    cutmix: float
    """Pastes a rectangle of one training image into another and blends their labels by area; the area
    is drawn from Beta(cutmix, cutmix). 0 = off; the usual value is 1. With mixup too, each batch gets
    one of the two. Allowed: at least 0. Default: 0.0.
    """

    class_weights: str
    """Weight of an image in the training loss: none (all equal), balanced (inverse to the number of
    training images of its class) or sqrt (inverse to the square root of that number). With multi_label:
    the weight of a label that an image has, relative to one that it does not have: the number of images
    without it / with it. Allowed: none, balanced, sqrt. Default: none.
    """

    initial_learning_rate: float
    """Learning rate after warm-up, where the decay begins. Allowed: greater than 0. Default: 0.0001."""

    warmup_steps: int
    """Steps during which the learning rate rises linearly from warmup_learning_rate to
    initial_learning_rate. Must be less than max_steps. Allowed: at least 0. Default: 0.
    """

    warmup_learning_rate: float
    """Learning rate at the start of warm-up. Allowed: at least 0. Default: 0.0001."""

    learning_rate_decay_type: str
    """How the learning rate falls after warm-up: cosine (to 0 at decay_steps) or stepwise (to the
    stepwise_learning_rate_levels). Allowed: cosine, stepwise. Default: cosine.
    """

    decay_steps: int
    """Step at which cosine decay reaches 0; must be greater than warmup_steps. 0 = max_steps. Allowed:
    at least 0. Default: 0.
    """

    stepwise_learning_rate_steps: str
    """With stepwise decay: the steps at which the learning rate changes, in ascending order, e.g.
    100,200.
    """

    stepwise_learning_rate_levels: str
    """With stepwise decay: the learning rate from each of these steps on, e.g. 0.01,0.001."""

    optimizer_type: str
    """The optimizer. Allowed: momentum, adam, rmsprop. Default: momentum."""

    optimizer_arguments: str
    """Settings of the optimizer as name=value, separated by commas. momentum: momentum (0.9),
    use_nesterov (false); adam: beta1 (0.9), beta2 (0.999), epsilon; rmsprop: decay (0.9), momentum (0),
    epsilon. Empty = these defaults.
    """

    label_smoothing: float
    """Fraction of each target's weight that is spread over all classes; with multi_label, over present
    and absent. Allowed: at least 0 and less than 1. Default: 0.1.
    """

    weight_decay: float
    """L2 penalty in the loss: weight_decay times half the sum of squares of the trained kernels
    (without biases and batch normalization). Allowed: at least 0. Default: 0.0001.
    """

    ema: float
    """Evaluates and exports a moving average of the weights instead of the weights themselves. The
    value is the decay, e.g. 0.999; in early steps it is smaller, so that the average follows. 0 = off.
    Allowed: at least 0 and less than 1. Default: 0.0.
    """

    train_steps_per_eval: int
    """Steps between evaluations; the model of the best evaluation is exported. 0 = a twentieth of
    max_steps, at least 25. Allowed: at least 0. Default: 0.
    """

    eval_batch_size: int
    """Images per batch of an evaluation; does not change the result. 0 = train_batch_size. Allowed: at
    least 0. Default: 0.
    """

    early_stopping_patience: int
    """Stops after this many evaluations in a row without a better top-1 accuracy (with multi_label: or
    an equal one and a better mean average precision). 0 = train to max_steps. Allowed: at least 0.
    Default: 0.
    """

    max_duration: int
    """Time limit of the training in seconds; the best model so far is kept. The time before an
    interruption counts. 0 = no limit. Allowed: at least 0. Default: 0.
    """

    mixed_precision: str
    """Floating-point format of the computation: off (float32), bfloat16, float16 (GPUs only), or auto:
    the fastest that the device supports and that the network gains from. Weights are always float32.
    Allowed: auto, off, bfloat16, float16. Default: auto.
    """

    deterministic: bool
    """Uses only deterministic operations, so that a run can be repeated bit for bit on the same kind of
    machine. Slower on GPUs. Default: False.
    """

    keep_checkpoints: int
    """How many of the latest checkpoints are kept in job_dir/checkpoints, in addition to the best
    model's. Allowed: at least 1. Default: 2.
    """

    deploy_target: str
    """Where to deploy a model that passes the gate: none, a local folder (deploy_dir), KServe, or a
    Vertex AI endpoint. Allowed: none, local, kserve, vertex. Default: none.
    """

    deploy_dir: Path
    """Folder for the deployed model in TensorFlow Serving's layout, with one numbered subfolder per
    version, e.g. serving/flowers. For kserve and vertex a gs:// folder, to which models are uploaded.
    """

    deploy_name: str
    """Name of the InferenceService (kserve), or of the model and the endpoint (vertex): lower-case
    letters, digits and hyphens. Empty = the last part of deploy_dir.
    """

    namespace: str
    """Namespace of the InferenceService. Empty = the pod's namespace. For kserve."""

    project: str
    """Google Cloud project. For vertex."""

    region: str
    """Vertex AI region, e.g. europe-west4. For vertex."""

    vertex_endpoint: str
    """Address of the Vertex AI API if it is not Google's public one, e.g. a private endpoint. Empty =
    the region's public address.
    """

    evaluation_split: str
    """Split on which the model is evaluated. Training never sees the test split; it uses the validation
    split to select the best step. Allowed: validation, test. Default: validation.
    """

    champion: Path
    """The model that is being served, evaluated on the same images for comparison: a folder, local or
    gs://, that contains saved_model.pb, or a folder of numbered versions, of which the highest is used.
    auto = the newest version in a local deploy_dir, or for kserve and vertex the deployed model with
    the most traffic, if there is one; none = no comparison. Default: auto.
    """

    slices_csv: Path
    """CSV file, local or gs://, that groups the images by something other than their labels, e.g. the
    camera. Its first line names the columns, path,camera,light; path is the image's path in the data
    set. Accuracy is reported for each value of each column. Empty = by image format and size only.
    """

    min_accuracy: float
    """Minimum top-1 accuracy for deployment. Allowed: at least 0 and at most 1. Default: 0.0."""

    min_class_recall: float
    """Minimum recall of every class that has images in the evaluation. Allowed: at least 0 and at most
    1. Default: 0.0.
    """

    min_slice_accuracy: float
    """Minimum top-1 accuracy of every slice in slices_csv. Allowed: at least 0 and at most 1. Default:
    0.0.
    """

    tolerance: float
    """How far the top-1 accuracy may be below the champion's on the same images, e.g. 0.005. Without a
    champion nothing is compared. Allowed: at least 0 and at most 1. Default: 0.0.
    """

    canary_percent: int
    """Percentage of the traffic for the new model; the rest stays with the previous one. Deploy the
    same model again with 100 to give it all traffic. For kserve and vertex. Allowed: at least 1 and at
    most 100. Default: 100.
    """

    deploy_timeout_seconds: int
    """Maximum time to wait until the new model responds; after that, the deployment is rolled back.
    Allowed: at least 1. Default: 1800.
    """

    undeploy_old: bool
    """Whether models of the endpoint without traffic are undeployed once the new model has all of it.
    For vertex. Default: False.
    """

    serving_url: str
    """Address of the server that watches deploy_dir, e.g. http://127.0.0.1:8501. If it does not report
    the new version as served, the version is removed. Empty = not checked. For local.
    """

    serving_machine_type: str
    """Machine type that serves the model. For vertex. Default: n1-standard-2."""

    serving_image: str
    """TensorFlow Serving image, with at least the TensorFlow version that trained the model. Required
    for vertex; for kserve, empty = the cluster's runtime for TensorFlow.
    """

    serving_service_account: str
    """Service account of the model server; it must be allowed to read deploy_dir. Empty = the default
    account. For kserve and vertex.
    """


class TuneOptions(RunOptions, total=False):
    """Options of ``imgpipe.tune``."""

    hyperparameters: str
    """The hyperparameters block of AI Platform's config.yaml, as YAML or JSON. Of a complete
    config.yaml, only this block is used.
    """

    tune: str
    """Short form of hyperparameters, added to them: name=log:0.001:0.2, name=linear:0:0.5 or
    name=reverse-log:0.9:0.999 for a range, name=16,32,64 for values. Separate parameters with
    semicolons.
    """

    max_trials: int
    """Total number of trials. 0 = the value in hyperparameters, or 10. Allowed: at least 0. Default: 0."""

    max_parallel_trials: int
    """Number of trials that run in parallel; CPU cores and GPUs are split across them. 0 = the value in
    hyperparameters, or 1. Allowed: at least 0. Default: 0.
    """

    max_failed_trials: int
    """End the search after this many failed trials. 0 = the value in hyperparameters, or half of all
    trials, but at least 3. Allowed: at least 0. Default: 0.
    """

    trial_early_stopping: str
    """Whether to stop unpromising trials early: on, off, or auto (the value in hyperparameters, or on).
    Allowed: auto, on, off. Default: auto.
    """

    search_algorithm: str
    """How values are chosen: bayesian (learns from earlier trials), grid (every combination), random,
    or auto (the value in hyperparameters, or bayesian). Allowed: auto, bayesian, grid, random. Default:
    auto.
    """

    resume_previous_job_id: Path
    """An earlier tuning to learn from: its job_dir, or the name of a folder next to this job_dir. Its
    trials do not count towards any limit.
    """

    trial_silence_limit: int
    """Seconds without output after which a trial counts as hung and is killed. A trial writes a line
    every second while it trains, and none while it evaluates. 0 = never. Allowed: at least 0. Default:
    3600.
    """
