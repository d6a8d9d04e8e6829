"""Tests of patches: made, applied, taken back, refused."""
