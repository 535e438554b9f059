"""The options of the Python API. Written by `make compile` from the code; do not edit."""

import os
from typing import TypedDict

Path = str | os.PathLike[str]


class ConvertOptions(TypedDict, total=False):
    """Options of ``imgpipe.convert``."""

    train_csv: Path
    """File that lists the training images: CSV, one `path,label` a line, no header line, UTF-8; or an
    import file of Vertex AI, CSV with a leading ml_use column (training, validation, test) or .jsonl.
    Paths are local or gs://, relative to the folder of the file or absolute. Give this, or images, or
    training_data_path. With multi_label a row holds any number of labels, path,label,label,...
    """

    multi_label: bool
    """An image may have several labels, or none: rows and records hold a list of labels, and the model
    gives each label a probability of its own (sigmoid). Data with one label an image does without.
    Default: False.
    """

    validation_csv: Path
    """File that lists the validation images, written like train_csv. Leave it empty if train_csv says
    which rows are for validation, or to set aside the share validation_fraction. Only together with
    train_csv.
    """

    test_csv: Path
    """File that lists the test images, written like train_csv; they become a split of their own, which
    training does not use. Only together with train_csv.
    """

    labels_file: Path
    """Text file with one label a line, UTF-8: line i names label i. Rows with any other label are
    rejected. Leave it empty to use the labels found in the data, in the order of the alphabet.
    """

    images: Path
    """Folder, local or gs://, with one subfolder of images for each label, named like the label. If it
    has the subfolders train and val (or validation, or valid), and perhaps test, each holding the label
    folders, these are the splits; otherwise the share validation_fraction is set aside. Or a pattern
    such as photos/*/*.jpg: an image's label is the name of its folder. Give this, or train_csv, or
    training_data_path.
    """

    training_data_path: Path
    """TFRecord files with the training images, as Google's converter writes them: a path with *, ? or
    [1-9], or several separated by commas, e.g. data/train-*. They are used where they lie, without a
    copy. Needs validation_data_path. Give this, or train_csv, or images.
    """

    validation_data_path: Path
    """TFRecord files with the validation images, written like training_data_path, e.g.
    data/validation-*. Only together with training_data_path.
    """

    validation_fraction: float
    """Share of each label's images that is set aside for validation, at least one image of every label
    that has two. Not used when the data has a validation split of its own. Allowed: greater than 0 and
    less than 1. Default: 0.2.
    """

    test_fraction: float
    """Share of each label's images that is set aside for a test split, which training does not use,
    where validation images are drawn too. 0 = none. Allowed: at least 0 and less than 1. Default: 0.0.
    """

    max_rejected_fraction: float
    """Largest share of rows that may be rejected (a missing or damaged image, an unknown label) before
    the step fails. 0 = every row must be good. All rejected rows are listed in rejected.csv, with the
    reason. Allowed: at least 0 and at most 1. Default: 0.0.
    """

    shard_megabytes: int
    """Size of an output file in megabytes (millions of bytes), roughly: the images are spread evenly
    over as many files as that takes. Allowed: at least 1 and at most 2000. Default: 128.
    """

    max_image_pixels: int
    """Largest number of pixels (width x height) of an image. A small file can claim gigapixels and take
    all memory; raise this for images that are really so large. Allowed: at least 1 and at most
    4294967296. Default: 100000000.
    """

    max_image_bytes: int
    """Largest image file in bytes; a row with a larger one is rejected. Allowed: at least 1 and at most
    2000000000. Default: 100000000.
    """

    seed: int
    """Seed of everything drawn at random: the split, the order of the images, the weights. The same
    seed gives the same data set. Allowed: at least 0 and at most 2147483647. Default: 0.
    """


class ValidateOptions(TypedDict, total=False):
    """Options of ``imgpipe.validate``."""

    num_classes: int
    """Number of classes; the labels in the data must be exactly 1..num_classes. 0 = as many as the data
    has. Allowed: at least 0. Default: 0.
    """

    multi_label: bool
    """An image may have several labels, or none: rows and records hold a list of labels, and the model
    gives each label a probability of its own (sigmoid). Data with one label an image does without.
    Default: False.
    """

    train_batch_size: int
    """Images in one training step, over all devices together. Allowed: at least 1. Default: 32."""

    num_eval_images: int
    """Validation images that an evaluation during training uses: a sample spread evenly over the data,
    the same at every evaluation, that the seed decides; 0 = all. Must not exceed what there is.
    Allowed: at least 0. Default: 0.
    """

    model_type: str
    """The network. mobilenet-v2 is the smallest and quickest, resnet-18 and efficientnet-b0 follow; the
    larger its number, the more accurate and the slower a network is. resnet-18, 34 and 200 have no
    ImageNet weights. Allowed: resnet-18, resnet-34, resnet-50, resnet-101, resnet-152, resnet-200,
    efficientnet-b0, efficientnet-b1, efficientnet-b2, efficientnet-b3, efficientnet-b4,
    efficientnet-b5, efficientnet-b6, efficientnet-b7, mobilenet-v2, efficientnet-v2-b0,
    efficientnet-v2-b1, efficientnet-v2-b2, efficientnet-v2-b3, efficientnet-v2-s, efficientnet-v2-m,
    efficientnet-v2-l. Default: efficientnet-b0.
    """

    image_size: int
    """Side in pixels of the square to which every image is scaled. 0 = the model's own: 224 for ResNets
    and MobileNet, 224 to 600 for EfficientNets. Allowed: at least 0 and at most 2048. Default: 0.
    """

    max_image_pixels: int
    """Largest number of pixels (width x height) of an image. A small file can claim gigapixels and take
    all memory; raise this for images that are really so large. Allowed: at least 1 and at most
    4294967296. Default: 100000000.
    """


class RunOptions(ConvertOptions, total=False):
    """Options of ``imgpipe.run``."""

    output_dir: Path
    """Folder, local or gs://, for the shards and their manifest, for large data: the step's artifact
    then only names the shards. It must be empty, not exist yet, or hold what an interrupted conversion
    left, which then goes on, or the finished data set of the same input, which is left as it is. Empty
    = beside the manifest in the artifact.
    """

    job_dir: Path
    """Folder for the run's output: job_dir/model gets the SavedModel, job_dir/checkpoints what an
    interrupted training goes on from. Empty = the model is only an artifact of the run, and an
    interrupted training starts again.
    """

    max_latency_ms: float
    """Longest time in milliseconds that a request of one image may take, at the 99th percentile,
    measured by the export step on its own machine; a slower model fails the step. 0 = no bound.
    Allowed: at least 0. Default: 0.0.
    """

    export_formats: str
    """Further formats of the model, separated by commas: tflite, tflite-int8 (calibrated with training
    images), onnx. Each is measured on the evaluation's images and lies in formats/ beside the
    SavedModel; its input is decoded pixels, uint8. Empty = none.
    """

    max_steps: int
    """Training steps (batches); the job ends after the last one. Allowed: at least 1. Default: 1000."""

    train_batch_size: int
    """Images in one training step, over all devices together. Allowed: at least 1. Default: 32."""

    num_classes: int
    """Number of classes; the labels in the data must be exactly 1..num_classes. 0 = as many as the data
    has. Allowed: at least 0. Default: 0.
    """

    num_eval_images: int
    """Validation images that an evaluation during training uses: a sample spread evenly over the data,
    the same at every evaluation, that the seed decides; 0 = all. Must not exceed what there is.
    Allowed: at least 0. Default: 0.
    """

    model_type: str
    """The network. mobilenet-v2 is the smallest and quickest, resnet-18 and efficientnet-b0 follow; the
    larger its number, the more accurate and the slower a network is. resnet-18, 34 and 200 have no
    ImageNet weights. Allowed: resnet-18, resnet-34, resnet-50, resnet-101, resnet-152, resnet-200,
    efficientnet-b0, efficientnet-b1, efficientnet-b2, efficientnet-b3, efficientnet-b4,
    efficientnet-b5, efficientnet-b6, efficientnet-b7, mobilenet-v2, efficientnet-v2-b0,
    efficientnet-v2-b1, efficientnet-v2-b2, efficientnet-v2-b3, efficientnet-v2-s, efficientnet-v2-m,
    efficientnet-v2-l. Default: efficientnet-b0.
    """

    image_size: int
    """Side in pixels of the square to which every image is scaled. 0 = the model's own: 224 for ResNets
    and MobileNet, 224 to 600 for EfficientNets. Allowed: at least 0 and at most 2048. Default: 0.
    """

    weights: str
    """Where the network starts: imagenet (weights trained on ImageNet; needs far fewer images of your
    own) or none (random weights; all layers are trained). Allowed: imagenet, none. Default: imagenet.
    """

    pretrained_checkpoint_path: Path
    """Start from these weights instead: a SavedModel folder of imgpipe, or one with numbered versions
    of which the highest counts, a checkpoints folder, or a Keras file (.weights.h5, .keras); local or
    gs://. A last layer for another number of classes is made anew. Empty = as weights says.
    """

    freeze: str
    """What is not trained: none (the whole network is trained), backbone (only the last layer is; many
    times faster, and safer with few images), or everything up to and with a part of the network: stem,
    stage1, stage2 and so on (ResNets have 4 stages, others 6 or 7). Needs pretrained weights. Default:
    none.
    """

    augmentation: str
    """How training images are varied: none, crop-flip (a random part of at least 8 percent of the
    image, mirrored every other time; the usual for photos) or randaugment (crop-flip, then two random
    changes of colour or geometry). Allowed: none, crop-flip, randaugment. Default: none.
    """

    mixup: float
    """Blend pairs of training images and of their labels: the share is drawn from Beta(mixup, mixup). 0
    = off, usual values are 0.1 to 0.4. Allowed: at least 0. Default: 0.0.
    """

    cutmix: float
    """Paste a rectangle of one training image into another and blend their labels by area; the area is
    drawn from Beta(cutmix, cutmix). 0 = off; the usual value is 1. With mixup as well, each batch gets
    one of the two. Allowed: at least 0. Default: 0.0.
    """

    class_weights: str
    """Weight of an image in the training loss: none (all alike), balanced (inverse to the number of
    training images of its class) or sqrt (inverse to the square root of it). With multi_label: how much
    a label that an image has counts beside one that it has not, images without / images with it.
    Allowed: none, balanced, sqrt. Default: none.
    """

    initial_learning_rate: float
    """Learning rate after warm-up, from which it decays. Allowed: greater than 0. Default: 0.0001."""

    warmup_steps: int
    """Steps over which the learning rate rises in a straight line from warmup_learning_rate to
    initial_learning_rate. Must be less than max_steps. Allowed: at least 0. Default: 0.
    """

    warmup_learning_rate: float
    """Learning rate at the start of warm-up. Allowed: at least 0. Default: 0.0001."""

    learning_rate_decay_type: str
    """How the learning rate falls after warm-up: cosine (to 0 at decay_steps) or stepwise (to the
    levels that are given). Allowed: cosine, stepwise. Default: cosine.
    """

    decay_steps: int
    """Step at which the cosine reaches 0; more than warmup_steps. 0 = max_steps. Allowed: at least 0.
    Default: 0.
    """

    stepwise_learning_rate_steps: str
    """Only with stepwise: the steps at which the learning rate changes, ascending, e.g. 100,200."""

    stepwise_learning_rate_levels: str
    """Only with stepwise: the learning rate from each of these steps on, e.g. 0.01,0.001."""

    optimizer_type: str
    """The optimizer. Allowed: momentum, adam, rmsprop. Default: momentum."""

    optimizer_arguments: str
    """Settings of the optimizer as name=value, separated by commas. momentum: momentum (0.9),
    use_nesterov (false); adam: beta1 (0.9), beta2 (0.999), epsilon; rmsprop: decay (0.9), momentum (0),
    epsilon. Empty = these defaults.
    """

    label_smoothing: float
    """Share of each target's weight that is spread over all classes; with multi_label, over yes and no.
    Allowed: at least 0 and less than 1. Default: 0.1.
    """

    weight_decay: float
    """L2 penalty in the loss: weight_decay times half the sum of squares of the trained kernels (not of
    biases and batch normalization). Allowed: at least 0. Default: 0.0001.
    """

    ema: float
    """Evaluate and export a moving average of the weights instead of the weights themselves: the share
    that the average keeps at each step, e.g. 0.999; early on less, so that it follows. 0 = off.
    Allowed: at least 0 and less than 1. Default: 0.0.
    """

    train_steps_per_eval: int
    """Steps between evaluations; the model of the best evaluation is the one that is exported. 0 = a
    twentieth of max_steps, at least 25. Allowed: at least 0. Default: 0.
    """

    eval_batch_size: int
    """Images in a batch of an evaluation; has no effect on the result. 0 = train_batch_size. Allowed:
    at least 0. Default: 0.
    """

    early_stopping_patience: int
    """Stop after this many evaluations in a row without a better top-1 accuracy (with multi_label: or
    an equal one and a better mean average precision). 0 = train to max_steps. Allowed: at least 0.
    Default: 0.
    """

    max_duration: int
    """Seconds of training after which it ends, with the best model so far; an interrupted training's
    earlier parts count. 0 = no limit. Allowed: at least 0. Default: 0.
    """

    mixed_precision: str
    """Arithmetic of the network: off (float32), bfloat16, float16 (GPUs only), or auto: the fastest
    that the device has instructions for and that the network gains from. Weights are float32 in any
    case. Allowed: auto, off, bfloat16, float16. Default: auto.
    """

    deterministic: bool
    """Use only operations that give the same bits every time, so that a run can be repeated exactly on
    the same kind of machine. Slower on GPUs. Default: False.
    """

    keep_checkpoints: int
    """Checkpoints that stay in job_dir/checkpoints besides the best model's: the last ones. Allowed: at
    least 1. Default: 2.
    """

    evaluation_split: str
    """Split of the data set that the model is measured on. A test split was never looked at in
    training, the validation split chose the best step. Allowed: validation, test. Default: validation.
    """

    champion: Path
    """The model that serves now, to be measured on the same images: a folder, local or gs://, that
    holds saved_model.pb, or one with numbered versions, of which the highest counts. auto = the newest
    version in a local deploy_dir, or for kserve and vertex the model that answers most requests of the
    deployment, if there is one; none = nothing to compare with. Default: auto.
    """

    deploy_dir: Path
    """Folder in TensorFlow Serving's layout for the deployed model, e.g. serving/flowers: a subfolder a
    version, named by a number. For kserve and vertex a gs:// folder that models are uploaded to.
    """

    deploy_target: str
    """Where a model that passes the gate is deployed: none, a local folder (deploy_dir), KServe, or an
    endpoint of Vertex AI. Allowed: none, local, kserve, vertex. Default: none.
    """

    deploy_name: str
    """Name of the InferenceService (kserve), or of the model and the endpoint (vertex): small letters,
    digits and hyphens. Empty = the last part of deploy_dir.
    """

    namespace: str
    """Namespace of the InferenceService. Empty = that of the pod. For kserve."""

    project: str
    """Google Cloud project. For vertex."""

    region: str
    """Region of Vertex AI, e.g. europe-west4. For vertex."""

    vertex_endpoint: str
    """Address of Vertex AI's interface where it is not Google's public one, e.g. a private endpoint.
    Empty = the region's.
    """

    slices_csv: Path
    """CSV file, local or gs://, that divides the images by something other than their labels, e.g. the
    camera: its first line names the columns, path,camera,light; path is the image's path as the data
    set has it. Accuracy is reported for each value of each column. Empty = by format and size alone.
    """

    min_accuracy: float
    """Smallest top-1 accuracy of a model that is deployed. Allowed: at least 0 and at most 1. Default:
    0.0.
    """

    min_class_recall: float
    """Smallest recall that every class must have, of those that have images in the evaluation. Allowed:
    at least 0 and at most 1. Default: 0.0.
    """

    min_slice_accuracy: float
    """Smallest top-1 accuracy on every slice that slices_csv names. Allowed: at least 0 and at most 1.
    Default: 0.0.
    """

    tolerance: float
    """By how much the top-1 accuracy may be below the champion's on the same images, e.g. 0.005.
    Without a champion nothing is compared. Allowed: at least 0 and at most 1. Default: 0.0.
    """

    canary_percent: int
    """Share of the traffic for the new model, in percent; the rest stays with what served before.
    Deploy the same model again with 100 to give it everything. For kserve and vertex. Allowed: at least
    1 and at most 100. Default: 100.
    """

    deploy_timeout_seconds: int
    """Longest time to wait until the new model answers; then it is taken back. Allowed: at least 1.
    Default: 1800.
    """

    undeploy_old: bool
    """Whether models of the endpoint that get no traffic any more are undeployed, once the new one has
    all of it. For vertex. Default: False.
    """

    serving_url: str
    """Address of the server that watches deploy_dir, e.g. http://127.0.0.1:8501: it is asked whether
    the new version is served, and the version is taken back if not. Empty = not asked. For local.
    """

    serving_machine_type: str
    """Machine that serves the model. For vertex. Default: n1-standard-2."""

    serving_image: str
    """Image of TensorFlow Serving that answers requests, of at least the TensorFlow that trained the
    model. Needed for vertex; for kserve empty = what the cluster's runtime for TensorFlow has.
    """

    serving_service_account: str
    """Service account that serves: it must be allowed to read deploy_dir. Empty = the default. For
    kserve and vertex.
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
