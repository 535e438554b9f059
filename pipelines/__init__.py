"""Pipelines, the targets they run on, and the command line. Nothing here is imported inside a container."""
