"""The stages of an agent: ingest, generate, postprocess, orchestrate."""
