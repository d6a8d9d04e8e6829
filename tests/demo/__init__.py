"""Tests of the demo, all with one seed."""

SEED = 7
