"""Where weights come from: S3, folders, and what a source holds."""
