"""The native library in plain NumPy: one operation, one rounding, experts in order."""
