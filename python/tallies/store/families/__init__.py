"""The files of each kind of codec: their layout, packing and restoring."""
