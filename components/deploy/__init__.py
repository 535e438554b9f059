"""Deployment: a model that passed the gate is put where it is served, taken back if it fails."""
