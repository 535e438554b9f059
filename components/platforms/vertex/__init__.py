"""Vertex AI: clients, errors, requests, and the jobs of a step."""
