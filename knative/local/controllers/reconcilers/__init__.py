"""One reconciler for each kind: reads the present state, asks `desired_state` and writes the differences."""
