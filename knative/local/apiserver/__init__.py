"""The Kubernetes API of the local platform: HTTP API, registry, validation, store."""
