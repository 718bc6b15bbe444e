"""A template process that was written to disk with CRIU, and restored in place of an import."""
