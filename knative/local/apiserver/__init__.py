"""The Kubernetes API of the local platform: HTTP API, admission, registry and store."""
