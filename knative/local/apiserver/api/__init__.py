"""The Kubernetes REST API of the local platform, as an ASGI application."""
