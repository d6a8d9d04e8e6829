"""Passes over tensors: plans of plain numbers for the native code, and their results."""
