"""The cache of weights: downloads, leases, checks at every read, eviction."""
