"""Looks at checkpoints and stores; never writes."""
