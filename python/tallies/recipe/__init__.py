"""The user's request: read, checked, and worked out by tensor."""
