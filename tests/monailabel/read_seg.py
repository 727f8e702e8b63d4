"""Reads a DICOM segmentation with highdicom; prints what it says as JSON."""

import json
import sys

import highdicom

found = highdicom.seg.segread(sys.argv[1])
print(
    json.dumps(
        {
            "series": str(found.ReferencedSeriesSequence[0].SeriesInstanceUID),
            "study": str(found.StudyInstanceUID),
            "sources": sorted(str(one[2]) for one in found.get_source_image_uids()),
            "segments": [str(one.SegmentLabel) for one in found.SegmentSequence],
            "pixels": int((found.pixel_array > 0).sum()),
            "frames": int(found.NumberOfFrames),
            "software": str(found.SoftwareVersions),
            "version": str(
                found.SegmentSequence[0]
                .SegmentationAlgorithmIdentificationSequence[0]
                .AlgorithmVersion
            ),
        }
    )
)
