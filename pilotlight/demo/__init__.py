"""The main job, end to end: a model in S3, an agent at zero, real tokens, and what a warm pool changes."""
