"""The edges of the control plane: clock, cluster, demand, history, metrics."""
