"""Keeps SavedModels loadable by TensorFlow 2.6 and later.

2.6 is the version of the TensorFlow runtime that KServe installs (kserve/kserve v0.20,
config/runtimes/kserve-tensorflow-serving.yaml: tensorflow/serving:2.6.2).
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import CheckFailedError

# Avoids a copy in the functions that save the model again (tensorflow 2.21, resource_variable_ops.py:
# _read_variable_op).
_COPY_HINT = "DisableCopyOnRead"
# Shown in error messages about a variable.
_VARIABLE_NAME_HINT = "debug_name"
_OPERATIONS_FILE = Path(__file__).with_name("tensorflow_2_6_operations.txt")


def remove_hints(model_folder: Path) -> None:
    """Removes from a SavedModel what later versions add to every model and what does not change its outputs.

    These are the operation ``DisableCopyOnRead``, the attribute ``debug_name`` of variables, and
    ``fingerprint.pb``, the digest of the graph that contains them.
    """
    saved_model = _read(model_folder)
    for nodes in _node_lists(saved_model):
        for node in nodes:
            node.attr.pop(_VARIABLE_NAME_HINT, None)
            if node.op == _COPY_HINT:
                # Kept as a node, because others name it as a control input.
                node.op = "NoOp"
                del node.input[:]
                node.attr.clear()
    (model_folder / "saved_model.pb").write_bytes(saved_model.SerializeToString(deterministic=True))
    (model_folder / "fingerprint.pb").unlink(missing_ok=True)


def unknown_operations(model_folder: Path) -> list[str]:
    """Returns the operations of a SavedModel that TensorFlow 2.6 cannot load, sorted.

    An operation that has an attribute that 2.6 does not know is returned as ``OPERATION.ATTRIBUTE``.

    Raises:
        CheckFailedError: if ``saved_model.pb`` is damaged.
    """
    known = _known_operations()
    unknown = set()
    for nodes in _node_lists(_read(model_folder)):
        for node in nodes:
            attributes = known.get(node.op)
            if attributes is None:
                unknown.add(node.op)
            else:
                unknown |= {
                    f"{node.op}.{name}"
                    for name in node.attr
                    # Attributes with an underscore are the runtime's own and are allowed on any operation.
                    if name not in attributes and not name.startswith("_")
                }
    return sorted(unknown)


def _read(model_folder: Path) -> Any:
    # Imported here because it loads TensorFlow; first by tf_import, which hides what it prints.
    import imgpipe.components.common.tf_import  # noqa: F401, I001
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = model_folder / "saved_model.pb"
    try:
        return saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise CheckFailedError(
            f"the SavedModel is damaged: {error}", where=str(path), remedy="train the model again"
        ) from None


def _node_lists(saved_model: Any) -> Iterator[Any]:
    """Yields the nodes of each graph and of each function in it."""
    for meta_graph in saved_model.meta_graphs:
        yield meta_graph.graph_def.node
        for function in meta_graph.graph_def.library.function:
            yield function.node_def


@cache
def _known_operations() -> dict[str, frozenset[str]]:
    lines = _OPERATIONS_FILE.read_text(encoding="ascii").splitlines()
    return {
        name: frozenset(attributes)
        for name, *attributes in (line.split() for line in lines if not line.startswith("#"))
    }
