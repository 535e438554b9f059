"""The step that checks every record before any training machine starts."""
