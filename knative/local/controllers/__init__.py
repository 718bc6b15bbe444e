"""What drives objects to their desired state: reconcilers, the autoscaler, events, settings."""
