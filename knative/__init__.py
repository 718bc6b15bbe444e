"""Knative: its vocabulary, rendering and applying, and a Knative for one machine."""
