"""What all tests share."""

from tests.servers.cloud_storage import cloud, emulator

__all__ = ["cloud", "emulator"]
