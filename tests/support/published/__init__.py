"""Recipes in the forms in which people publish them, with made-up names."""
