"""The Kubernetes client: the cluster, its errors, the kinds of objects."""
