"""From files to tensors, and from anomaly maps back onto the grid of the input.

- ``readers``: pictures, volumes and DICOM, their channels and masks, as MetaTensors;
- ``dicom``: DICOM files and the series in a folder;
- ``resample``: volumes of one patient onto one grid, where the user asks for it;
- ``intensity``: brightness on a common scale in [0, 1], with ``windows`` and ``bias`` (N4);
- ``geometry``: where each pixel of a slice lies in the volume that it was cut from;
- ``slices``: volumes to stacks of slices, maps back to volumes, and which slices to use.
"""
