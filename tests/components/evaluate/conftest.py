from tests.components.deploy.conftest import (
    cluster,
    cluster_of_this_machine,
    models,
    on_kserve,
    on_vertex,
    place,
    vertex,
)

__all__ = ["cluster", "cluster_of_this_machine", "models", "on_kserve", "on_vertex", "place", "vertex"]
