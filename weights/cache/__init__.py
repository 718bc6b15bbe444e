"""The weights cache: files that arrive, are leased, verified and pruned."""
