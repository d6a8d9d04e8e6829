"""What the native library does, in plain NumPy: one operation, one rounding, experts in order."""
