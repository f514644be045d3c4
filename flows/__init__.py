"""What users of the platform write: a folder per flow."""
