"""The train step on Vertex AI: creates a CustomJob and follows it."""
