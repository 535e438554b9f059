from tests.components.deploy.conftest import cluster as cluster_server
from tests.components.deploy.conftest import models
from tests.components.deploy.conftest import vertex as vertex_server

__all__ = ["cluster_server", "models", "vertex_server"]
