"""Benchmarks: each checks what it measures, prints a table and writes JSON. See README.md."""
