"""From a snapshot of the cluster to a decision and a plan of writes. Pure: no clock, no I/O."""
