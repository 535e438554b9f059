"""Kubernetes: the client of the API, pods, KServe and Katib."""
