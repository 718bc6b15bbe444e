"""A Knative for one machine: API, store, reconcilers, autoscaler, activator, replicas."""
