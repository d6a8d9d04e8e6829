"""Build mixtures of experts from dense models."""
