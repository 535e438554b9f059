"""What Kubeflow Pipelines' API refuses, and imgpipe therefore does not send.

The sources are those of kubeflow/pipelines 2.17, below backend/src/apiserver.
"""

import json

import pytest

from imgpipe.components.common.image_name import check_image
from imgpipe.pipelines import images
from imgpipe.pipelines.cron import check_cron
from tests.servers import kubeflow_rules

ARGUMENTS = ["--images=gs://bucket/flowers", "--max_steps=5"]


def submit(run, *options):
    return run("submit", "job_1", "--no-check", *options, "--", *ARGUMENTS)


@pytest.mark.parametrize("name", ["50% of a+b", "a%20b", 'Clone of "x" & y', "größe ü"])
def test_a_run_that_was_named_in_the_browser_is_found(run, server, name):
    """parseAPIFilter in server/list_request_util.go decodes a filter twice."""
    assert submit(run).exit_code == 0
    [sent] = server.runs.values()
    sent["display_name"] = name
    described = run("describe", name, "--format", "json")
    assert described.exit_code == 0, described.output
    assert json.loads(described.stdout)["name"] == sent["run_id"]


def test_another_spelling_of_a_name_is_another_run(run, server):
    """MySQL's collation finds both."""
    assert submit(run).exit_code == 0
    [sent] = server.runs.values()
    sent["display_name"] = "JOB_1"
    assert run("describe", "job_1").exit_code == 66


def test_a_local_version_of_imgpipe_has_a_name_that_kubernetes_accepts(run, server, monkeypatch):
    """storage/pipeline_store_kubernetes.go: pipelines and versions may be objects of Kubernetes."""
    server.stores_in_kubernetes = True
    monkeypatch.setattr(images, "__version__", "0.2.0.dev1+Git_12")
    assert submit(run).exit_code == 0
    assert run("submit", "job_2", "--no-check", "--", *ARGUMENTS).exit_code == 0
    [version] = server.versions.values()
    assert version["name"].startswith("0.2.0.dev1-git-12-")
    assert all("pipeline_version_reference" in sent for sent in server.runs.values())


@pytest.mark.parametrize(
    ("version", "tag"),
    [
        ("1.2.0", "1.2.0"),
        ("1.2.0+g123.d20261129", "1.2.0-g123.d20261129"),
        ("1!2.0rc1+Local_1", "1-2.0rc1-local-1"),
    ],
)
def test_the_tag_of_the_images_is_valid_for_every_version(monkeypatch, version, tag):
    """github.com/distribution/reference, regexp.go: a tag has letters, digits, points, hyphens and _."""
    monkeypatch.setattr(images, "__version__", version)
    image = images.Images("registry.example/imgpipe").of_role("data")
    assert image == f"registry.example/imgpipe/imgpipe-data:{tag}"
    check_image(image, name="image")


@pytest.mark.parametrize("options", [("--namespace", "Team_1"), ("--service-account", "a..b")])
def test_a_name_that_kubernetes_refuses_is_refused_before_any_request(run, server, options):
    result = submit(run, *options)
    assert result.exit_code == 64
    assert options[1] in result.stderr
    assert server.requests == []


def test_a_missing_namespace_is_named(run, server):
    """canAccessExperiment in server/experiment_server.go."""
    server.multi_user = "team"
    result = run("list")
    assert result.exit_code == 64
    assert "--namespace is missing" in result.stderr
    assert run("list", "--namespace", "other").exit_code == 69


def test_a_list_names_the_users_namespace(run, server):
    server.multi_user = "team"
    assert submit(run, "--namespace", "team").exit_code == 0
    assert "NAMESPACE" in run("list", "--namespace", "team").stdout
    [listed] = json.loads(run("list", "--namespace", "team", "--format", "json").stdout)
    described = json.loads(run("describe", "job_1", "--namespace", "team", "--format", "json").stdout)
    assert listed["namespace"] == described["namespace"] == "team"
    server.multi_user = ""
    assert "NAMESPACE" not in run("list").stdout


def test_each_namespace_has_an_experiment_of_the_same_name(run, server):
    """uniqueIndex in model/experiment.go."""
    for namespace in ("team", "other"):
        server.multi_user = namespace
        assert submit(run, "--namespace", namespace).exit_code == 0
    for created in (server.experiments, server.pipelines):
        assert [found["namespace"] for found in created.values()] == ["team", "other"]


@pytest.mark.parametrize(
    "cron", ["0 3 * * 7", "0 3 * * MON-FRI", "*/10 0-6/2 1,15 jan-mar *", "0 3 * * 5-7", "5/7 * * * sun"]
)
def test_every_cron_expression_that_is_accepted_is_accepted_by_kubeflow(cron):
    """toModelJob in server/api_converter.go: robfig/cron 1.2."""
    kubeflow_rules.check_cron(f"0 {check_cron(cron, zone_allowed=False)}")


def test_runs_of_the_same_second_are_kept_by_their_id(run, server):
    """CreatedAtInSec in model/run.go: times have whole seconds."""
    assert submit(run).exit_code == 0
    [first] = server.runs.values()
    server.runs["0"] = {**first, "run_id": "0"}
    assert json.loads(run("describe", "job_1", "--format", "json").stdout)["name"] == "0"
    assert submit(run).exit_code == 0
    assert list(server.runs) == ["0"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"sort_by": "created_at desc"}, "page token does not match"),
        ({"filter": json.dumps({"predicates": []})}, ""),
        ({"page_token": "2"}, "Invalid page token"),
        ({"page_token": "", "sort_by": "created desc"}, "Invalid sorting field"),
        ({"page_token": "", "filter": "%7B"}, "failed to parse"),
        ({"page_token": "", "page_size": "-1"}, "page size"),
    ],
)
def test_the_server_refuses_what_list_go_refuses(query, message):
    """list/list.go and server/list_request_util.go."""
    runs = [{"run_id": str(number), "created_at": f"2026-11-29T00:00:0{number}Z"} for number in range(3)]
    token = kubeflow_rules.page_of("runs", "runs", runs, {"page_size": "2"})["next_page_token"]
    asked = {"page_token": token, **query}
    if message:
        with pytest.raises(kubeflow_rules.RefusedError, match=message):
            kubeflow_rules.page_of("runs", "runs", runs, asked)
    else:
        assert [run["run_id"] for run in kubeflow_rules.page_of("runs", "runs", runs, asked)["runs"]] == ["2"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("NUMBER_INTEGER", True),
        ("BOOLEAN", 1),
        ("STRING", 1),
        ("LIST", {}),
        ("STRUCT", "{}"),
        ("STRING", None),
    ],
)
def test_the_server_refuses_a_parameter_of_another_type(kind, value):
    """validatePipelineJobInputs in template/v2_template.go."""
    with pytest.raises(kubeflow_rules.RefusedError):
        kubeflow_rules.check_inputs({"a": {"parameterType": kind}}, {} if value is None else {"a": value})
