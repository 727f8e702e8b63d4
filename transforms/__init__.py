"""From files to tensors, and from anomaly maps back onto the grid of the input.

- ``readers``: pictures and NIfTI volumes, their channels and masks, as MetaTensors;
- ``intensity``: brightness on a common scale in [0, 1];
- ``geometry``: where each pixel of a slice lies in the volume that it was cut from;
- ``slices``: volumes to stacks of slices, maps back to volumes, and which slices to use.
"""
