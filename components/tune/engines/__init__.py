"""Who chooses the trials and runs them: this machine, Vertex AI or Katib."""
