"""Model weights: from S3 or a shared folder, verified and cached, to the device."""
