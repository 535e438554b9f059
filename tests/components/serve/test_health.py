"""The health check of the serving image."""

import http.server
import socket
import threading

import pytest

from imgpipe.components.serve.health import main


@pytest.fixture
def command_file(tmp_path):
    def write(*command):
        (tmp_path / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in command))
        return tmp_path / "cmdline"

    return write


@pytest.fixture
def responding():
    """``responding(status)`` starts a server whose /healthz has this status; returns its port."""
    servers = []

    def start(status):
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_): ...

            def do_GET(self):
                self.send_response(status if self.path == "/healthz" else 404)
                self.end_headers()

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_container_that_runs_a_step_is_healthy(command_file):
    assert main(command_file("python3", "-m", "kfp.dsl.executor_main", "--port=1")) == 0


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (500, 1)])
def test_the_exit_code_follows_the_status(command_file, responding, status, exit_code):
    flags = ["--model=/model", f"--port={responding(status)}", "--host=0.0.0.0"]
    assert (
        main(command_file("/sbin/docker-init", "--", "python", "-m", "imgpipe.components.serve", *flags))
        == exit_code
    )


def test_a_server_that_does_not_respond_is_unhealthy(command_file):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert (
            main(command_file("python", "-m", "imgpipe.components.serve", "--model=/m", f"--port={port}"))
            == 1
        )
