"""Fixtures for all tests."""

from tests.servers.cloud_storage import cloud, emulator

__all__ = ["cloud", "emulator"]
