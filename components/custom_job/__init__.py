"""The train step on Vertex AI: a CustomJob of worker pools, started and followed."""
