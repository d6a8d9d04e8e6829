"""One file a codec: facts that packing and restoring follow."""
