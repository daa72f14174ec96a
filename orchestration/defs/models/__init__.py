"""Training, comparison and registration of models."""
