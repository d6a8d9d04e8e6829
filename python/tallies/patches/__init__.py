"""Patches: the exact difference of two models, and what is made of an old model and patches."""
