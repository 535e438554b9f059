"""The step that calls the webhook after all others, however the run ends."""
