"""Hostile files made by mutation: a target for each format, and what it may do with them."""
