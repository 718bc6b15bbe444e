"""Where weights come from: S3 and folders."""
