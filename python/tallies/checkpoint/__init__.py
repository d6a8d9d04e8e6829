"""A model as named sources: formats in, files out, no arithmetic."""
