"""What the tests of the stores share."""

import pytest


@pytest.fixture
def parts(monkeypatch):
    """Files of more than 256 KB are copied in parts."""
    monkeypatch.setattr("imgpipe.components.storage.object_store.PART_BYTES", 1 << 18)
