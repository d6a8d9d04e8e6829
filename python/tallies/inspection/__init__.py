"""Looks at checkpoints and stores, and compares models; never writes."""
