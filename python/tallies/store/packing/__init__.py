"""Packs tasks into a store."""
