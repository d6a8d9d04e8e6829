"""Restores tasks from a store."""
