"""HTTP around a stage: the application, its middleware, `/invoke`, the reverse proxy, the server."""
