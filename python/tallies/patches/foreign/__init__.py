"""The layouts in which other tools exchange changes of weights, read and written.

One file a layout. Each has ``to_patch``, which makes a patch of an update and the model that the
update is of, and ``from_patch``, which writes an update. ``docs/patches.md`` has the layouts.
"""
