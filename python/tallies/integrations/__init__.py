"""Run other tools' own functions on the kernels of this package; each is opt-in."""
