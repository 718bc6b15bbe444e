"""Knative's autoscaling vocabulary and decisions. Pure."""
