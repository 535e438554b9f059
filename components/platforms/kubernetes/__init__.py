"""Kubernetes and what runs on it."""
