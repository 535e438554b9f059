"""What steps need to start and follow jobs on Vertex AI."""
