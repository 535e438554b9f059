"""Options of a job: invalid and ignored ones are reported by the name that the user wrote."""

import pytest
from click.testing import CliRunner

from imgpipe.pipelines.cli import imgpipe
from tests.servers.configs import ARGUMENTS

VERTEX = ["--target", "vertex", "--region", "us-central1"]
PIPELINE = [*VERTEX, "--as", "pipeline", "--pipeline-root", "gs://b/p"]
KUBEFLOW = ["--target", "kubeflow"]
IMAGES = ["--images=gs://b/i"]


@pytest.fixture
def dry_run(tmp_path, monkeypatch):
    """``dry_run(options, arguments)`` returns the result of a submission that is not sent."""
    monkeypatch.chdir(tmp_path)

    def run(options, arguments):
        return CliRunner().invoke(imgpipe, ["submit", "job_1", *options, "--dry-run", "--", *arguments])

    return run


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        # Invalid values, reported by the name of the flag.
        ([*VERTEX, "--scale-tier=CUSTOM", "--master-machine-type=n1-standard-3"], ARGUMENTS,
         "--master-machine-type=n1-standard-3"),
        ([*VERTEX, "--scale-tier=CUSTOM"], ARGUMENTS, "--master-machine-type is required"),
        ([*VERTEX, "--master-machine-type=n1-standard-8"], ARGUMENTS, "set --scale-tier=CUSTOM"),
        ([*VERTEX, "--strategy=preemptible"], ARGUMENTS, "'preemptible' is not one of"),
        ([*VERTEX, "--scale-tier=PREMIUM_1"], ARGUMENTS, "--scale-tier=PREMIUM_1"),
        ([*VERTEX, "--service-account=robot"], ARGUMENTS, "--service-account='robot'"),
        ([*VERTEX, "--network=default"], ARGUMENTS, "--network='default'"),
        ([*VERTEX, "--kms-key=key"], ARGUMENTS, "--kms-key='key'"),
        (["--target", "vertex", "--region", "Iowa"], ARGUMENTS, "--region='Iowa'"),
        # Rules of the platform.
        ([*VERTEX, "--labels=Team=vision"], ARGUMENTS, "--labels.Team='vision' is not a valid label"),
        ([*VERTEX, "--labels=team=Vision"], ARGUMENTS, "--labels.team='Vision' is not a valid label"),
        ([*VERTEX, "--labels==vision"], ARGUMENTS, "is not a valid label"),
        ([*VERTEX, "--labels=a=1,a=2"], ARGUMENTS, "a is given twice"),
        ([*VERTEX, "--labels=imgpipe-job=x"], ARGUMENTS, "imgpipe uses this label to find its jobs"),
        ([*VERTEX, "--labels=" + ",".join(f"k{n}=v" for n in range(62))], ARGUMENTS, "has 62 labels"),
        ([*VERTEX, "--image-registry=https://gcr.io/p"], ARGUMENTS, "without https://"),
        ([*VERTEX, "--image-registry=gcr.io/Project"], ARGUMENTS, "--image-registry='gcr.io/Project'"),
        ([*VERTEX, "--image-registry=gcr.io/p:1"], ARGUMENTS, "without a tag"),
        ([*VERTEX, "--master-image-uri=My Image"], ARGUMENTS, "--master-image-uri='My Image'"),
        # A dry run refuses what a submission refuses.
        ([*VERTEX, "--scale-tier=CUSTOM", "--master-machine-type=a9-highgpu-8g", "--allow-unknown-machine",
          "--master-accelerator=type=NVIDIA_B999,count=8"], ARGUMENTS, "NVIDIA_B999"),
        (["--target=local"], [*IMAGES, "--job-dir=gs://b/j"], "job_dir='gs://b/j': a run on this machine"),
        (["--target=vertex", "--as=pipeline", "--pipeline-root=gs://b/p"], IMAGES, "no region is given"),
        # On the wrong side of `--`, or for another form.
        (VERTEX, [*ARGUMENTS, "--images=gs://b/i"], "add --as pipeline"),
        (VERTEX, [*ARGUMENTS, "--deploy_target=vertex"], "add --as pipeline"),
        (PIPELINE, [*IMAGES, "--retrain"], "use --retrain before `--`"),
        (PIPELINE, [*IMAGES, "--scale_tier=BASIC"], "use --scale-tier before `--`"),
        ([*PIPELINE, "--max_steps=5"], IMAGES, "--max_steps is a training argument: give it after"),
        ([*PIPELINE, "--images", "gs://b/i"], [], "--images is a training argument: give it after"),
        # Not supported by the target.
        (KUBEFLOW, [*IMAGES, "--deploy_target=local", "--deploy_dir=serving"],
         "deploy_target=local cannot be used on target kubeflow"),
        (PIPELINE, [*IMAGES, "--deploy_target=local", "--deploy_dir=serving"], "use --deploy_target=vertex"),
        (PIPELINE, [*IMAGES, "--deploy_target=kserve", "--deploy_dir=gs://b/s"], "local or kubeflow"),
        # Paths that the target's machines cannot read.
        (KUBEFLOW, ["--images=flowers"], "images=flowers is a local path"),
        (KUBEFLOW, [*IMAGES, "--job-dir=~/run"], "job_dir=~/run is a local path"),
        (KUBEFLOW, ["--images=hdfs://b/i"], "hdfs:// is not supported"),
        (KUBEFLOW, [*IMAGES, "--pretrained_checkpoint_path=old"], "pretrained_checkpoint_path=old"),
        (PIPELINE, ["--images=/data/flowers"], "images=/data/flowers is a local path"),
        (PIPELINE, [*IMAGES, "--slices_csv=slices.csv"], "slices_csv=slices.csv"),
        (PIPELINE, [*IMAGES, "--champion=models/1"], "champion=models/1"),
        (VERTEX, [*ARGUMENTS, "--pretrained_checkpoint_path=old"], "pretrained_checkpoint_path=old"),
        (KUBEFLOW, ["--images=gs://b/a/*.jpg,flowers/*.jpg"], "is a local path"),
        (VERTEX, ["--training_data_path=gs://b/t-*,t-*", *ARGUMENTS[1:]], "is a local path"),
        ([*VERTEX, "--kms-key=k", "--kms-keyring=r"], ARGUMENTS, "use all four, or --kms-key=projects/P"),
        # Invalid bucket names.
        (VERTEX, [*ARGUMENTS[:2], "--job-dir=gs://"], "job_dir='gs://': has no bucket"),
        (VERTEX, [*ARGUMENTS[:2], "--job-dir=/gcs//x"], "job_dir=/gcs//x has no bucket"),
        (PIPELINE, ["--images=gs:///x"], "images='gs:///x': has no bucket"),
        (KUBEFLOW, ["--images=gs://bu cket/x"], "'bu cket' is not a valid bucket name"),
        ([], ["--images=gs:///x"], "images='gs:///x': has no bucket"),
        ([*VERTEX, "--as=pipeline", "--pipeline-root=gs:///p"], IMAGES, "--pipeline-root=gs:///p has no"),
        ([*KUBEFLOW, "--pipeline-root=artifacts"], IMAGES, "--pipeline-root='artifacts'"),
        ([*VERTEX, "--as=pipeline"], IMAGES, "neither --pipeline-root nor --job-dir is given"),
        # On the wrong side of `--`.
        (VERTEX, [*ARGUMENTS, "--region=us-east1"], "use --region before `--` for the job's own region"),
    ],
)  # fmt: skip
def test_an_invalid_option_is_rejected_by_the_name_of_its_flag(dry_run, options, arguments, message):
    result = dry_run(options, arguments)
    assert result.exit_code in (2, 64)
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (KUBEFLOW, ["--images=/mnt/flowers"]),
        (KUBEFLOW, [*IMAGES, "--deploy_target=vertex", "--deploy_dir=gs://b/s",
                    "--serving_image=eu-docker.pkg.dev/a/b:1", "--project=p", "--region=us-central1"]),
        (PIPELINE, ["--images=/gcs/b/i", "--champion=none"]),
        ([*VERTEX, "--as=pipeline"], ["--images=/gcs/b/i", "--job-dir=/gcs/b/job"]),
        ([*KUBEFLOW, "--pipeline-root=minio://mlpipeline/v2"], IMAGES),
        # A comma separates paths only in patterns.
        (VERTEX, [*ARGUMENTS[:2], "--job-dir=gs://b/lr=0.1,bs=32"]),
        (KUBEFLOW, ["--images=/mnt/data/cats,dogs"]),
        (PIPELINE, ["--images=gs://b/cats,dogs"]),
        (VERTEX, ["--training_data_path=gs://b/t-*, /gcs/b/u-*", *ARGUMENTS[1:]]),
        (["--image-registry=127.0.0.1:5000/team/"], ["--images=flowers"]),
        # Forms that gcloud accepts.
        ([*VERTEX, "--scale-tier=basic-gpu"], ARGUMENTS),
        ([*VERTEX, "--scale-tier", "custom", "--master-machine-type=n1-standard-8"], ARGUMENTS),
        ([*VERTEX, "--use-chief-in-tf-config", "false"], ARGUMENTS),
        ([*VERTEX, "--kms-key=k", "--kms-keyring=r", "--kms-location=us-central1", "--kms-project=p"],
         ARGUMENTS),
    ],
)  # fmt: skip
def test_valid_options_are_accepted(dry_run, options, arguments):
    result = dry_run(options, arguments)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        (["--pipeline-root=gs://b/p"], ["--images=i"], "--pipeline-root is ignored"),
        (["--image-registry=gcr.io/p"], ["--images=i"], "--image-registry is ignored: the steps run"),
        (["--service-account=trainer@p.iam.gserviceaccount.com"], ["--images=i"],
         "--service-account is ignored: the pipeline runs as you"),
        (["--scale-tier=BASIC_GPU"], ["--images=i"], "the machine n1-standard-8 with 1 NVIDIA_TESLA_T4 is"),
        (["--host=http://localhost:1"], ["--images=i"], "--host is ignored: it is for --target kubeflow"),
        (["--region=us-central1"], ["--images=i"], "--region is ignored"),
        (["--stream-logs"], ["--images=i"], "--stream-logs is ignored: --dry-run sends nothing"),
        ([*KUBEFLOW, "--project=p"], IMAGES, "--project is ignored: it is for --target vertex"),
        ([*KUBEFLOW, "--labels=team=vision"], IMAGES, "--labels is ignored"),
        ([*VERTEX, "--pipeline-root=gs://b/p"], ARGUMENTS, "add --as pipeline"),
        ([*VERTEX, "--runs=here"], ARGUMENTS, "--runs is ignored: it is for --target local"),
        ([*VERTEX, "--staging-bucket=gs://b"], ARGUMENTS, "--staging-bucket is ignored: no code"),
        ([*VERTEX, "--quiet", "--verbosity=info"], ARGUMENTS, "--quiet is ignored"),
        ([*VERTEX, "--use-chief-in-tf-config=true"], ARGUMENTS, "--use-chief-in-tf-config"),
        ([*VERTEX, "--scale-tier=basic-tpu", "--tpu-tf-version=2.1"], ARGUMENTS,
         "workerConfig is ignored: the job has no machine for this role"),
        ([*PIPELINE, "--enable-web-access"], IMAGES, "--enable-web-access is ignored"),
        ([*PIPELINE, "--retrain"],
         [*IMAGES, "--deploy_target=vertex", "--deploy_dir=gs://b/s",
          "--serving_image=eu-docker.pkg.dev/a/b:1", "--project=p", "--region=us-central1", "--pretrained_checkpoint_path=gs://b/old"],
         "--pretrained_checkpoint_path is used only while no model is deployed"),
    ],
)  # fmt: skip
def test_an_ignored_option_is_reported_with_the_reason(dry_run, options, arguments, message):
    result = dry_run(options, arguments)
    assert result.exit_code == 0, result.output
    assert message in result.stderr


def test_defaults_and_environment_variables_are_not_reported_as_ignored(dry_run, monkeypatch):
    # Variables are meant for the targets that use them.
    for name, value in {
        "GOOGLE_CLOUD_REGION": "us-central1",
        "GOOGLE_CLOUD_PROJECT": "p",
        "KFP_ENDPOINT": "http://localhost:1",
        "IMGPIPE_IMAGE_REGISTRY": "gcr.io/p",
    }.items():
        monkeypatch.setenv(name, value)
    result = dry_run([], ["--images=flowers"])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "serviceAccount" not in result.stdout


def test_the_job_id_of_the_command_line_overrides_the_config(dry_run, tmp_path):
    (tmp_path / "config.yaml").write_text("jobId: old\ntrainingInput: {scaleTier: BASIC}\n")
    result = dry_run([*VERTEX, "--config", "config.yaml"], ARGUMENTS)
    assert "jobId=old is ignored: the command line gives job_1" in result.stderr


def test_the_region_of_the_config_overrides_the_variable_and_the_flag_overrides_both(
    dry_run, monkeypatch, tmp_path
):
    monkeypatch.setenv("GOOGLE_CLOUD_REGION", "us-central1")
    config = tmp_path / "config.yaml"
    config.write_text("trainingInput:\n  region: europe-west4\n")
    options = ["--target=vertex", "--project=p", f"--config={config}"]
    configured = dry_run(options, ARGUMENTS)
    assert configured.exit_code == 0, configured.output
    assert "europe-west4" in configured.stdout
    assert "us-central1" not in configured.stdout
    assert "GOOGLE_CLOUD_REGION=us-central1 is ignored" in configured.stderr
    flagged = dry_run([*options, "--region=asia-east1"], ARGUMENTS)
    assert "asia-east1" in flagged.stdout
    assert "europe-west4" not in flagged.stdout
    config.write_text("trainingInput:\n  scaleTier: BASIC\n")
    assert "us-central1" in dry_run(options, ARGUMENTS).stdout
