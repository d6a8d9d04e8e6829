"""Adapters: recognise them, read them as changes of named tensors, and lay them over a model."""
