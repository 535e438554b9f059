"""Deployment: serves a model that passed the gate, and rolls back if it does not answer."""
