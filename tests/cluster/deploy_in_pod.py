"""The deploy step in a pod of its own: ``python -c`` runs this text with a request in the environment.

It prints the deployment, or with an empty ``model`` the storage URI of the model that serves, as JSON.
"""

import dataclasses
import json
import os
import tempfile
import threading
from pathlib import Path

from imgpipe.components.common.step import run_command
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deploy import deploy
from imgpipe.components.deploy.serving import find_serving_model
from imgpipe.components.storage import parse_location

REQUEST_VARIABLE = "IMGPIPE_TEST_REQUEST"


def main():
    """Does what the request says."""
    request = json.loads(os.environ[REQUEST_VARIABLE])
    if request["killed_after"]:
        # A pod's first process gets no SIGKILL from within: it ends without any cleanup all the same.
        threading.Timer(request["killed_after"], os._exit, [137]).start()
    arguments = DeployArguments(**request["arguments"])
    if not request["model"]:
        print(json.dumps({"serving": str(find_serving_model(arguments))}))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        parse_location(request["model"]).download_folder(model)
        print(json.dumps(dataclasses.asdict(deploy(model, arguments))))


if __name__ == "__main__":
    run_command("deploy", main)
