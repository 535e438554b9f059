"""Engines choose the trials and run them: on this machine, on Vertex AI or with Katib."""
