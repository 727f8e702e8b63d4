import numpy as np
import pydicom
import pytest

from transforms.errors import InputError
from transforms.readers import picture_range, read_image


@pytest.fixture
def affine() -> np.ndarray:
    """Right-handed, with perpendicular oblique axes of 0.5, 0.8 and 3 mm."""
    turn, _ = np.linalg.qr(np.array([[2.0, 0.3, -0.2], [-0.4, 1.5, 0.6], [0.1, -0.5, 1.8]]))
    turn[:, 2] *= np.sign(np.linalg.det(turn))
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.5, 0.8, 3.0)
    affine[:3, 3] = (10, -20, 5)
    return affine


@pytest.fixture
def stored() -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, (4, 6, 5)).astype(np.int16)


class TestVolumes:
    def test_frames_in_any_order_become_the_volume(self, tmp_path, save_frames, stored, affine):
        path = save_frames(tmp_path / "a.dcm", stored, affine, order=(3, 0, 4, 1, 2))
        image = read_image(path)
        np.testing.assert_array_equal(image.numpy()[0], stored)
        np.testing.assert_allclose(image.affine.numpy(), affine, atol=1e-6)
        assert image.meta["dicom_files"] == (str(path),)
        assert image.meta["dicom_frames"] == (1, 3, 4, 0, 2)
        assert "bit_depth" not in image.meta

    def test_a_folder_with_one_object_is_that_volume(self, tmp_path, save_frames, stored, affine):
        save_frames(tmp_path / "series" / "a.dcm", stored, affine)
        np.testing.assert_array_equal(read_image(tmp_path / "series").numpy()[0], stored)

    def test_each_frame_has_its_own_rescaling_and_window(
        self, tmp_path, save_frames, stored, affine
    ):
        shared = {
            "PixelValueTransformationSequence": {"RescaleSlope": 2, "RescaleIntercept": -100},
            "FrameVOILUTSequence": {"WindowCenter": 50, "WindowWidth": 400},
        }
        changes = {
            2: {
                "PixelValueTransformationSequence": {"RescaleSlope": 7, "RescaleIntercept": 3},
                "FrameVOILUTSequence": {"WindowCenter": 60, "WindowWidth": 300},
            }
        }
        path = save_frames(tmp_path / "a.dcm", stored, affine, changes=changes, shared=shared)
        image = read_image(path)
        expected = stored * 2.0 - 100
        expected[:, :, 2] = stored[:, :, 2] * 7.0 + 3
        np.testing.assert_array_equal(image.numpy()[0], expected)
        assert image.meta["voi_windows"][1:4] == ((50.0, 400.0), (60.0, 300.0), (50.0, 400.0))

    def test_geometry_outside_the_functional_groups_holds_for_no_frame(
        self, tmp_path, save_frames, stored, affine
    ):
        place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        image = read_image(save_frames(tmp_path / "a.dcm", stored, affine, **place))
        np.testing.assert_allclose(image.affine.numpy(), affine, atol=1e-6)

    def test_a_single_frame_is_a_picture(self, tmp_path, save_frames, stored, affine):
        image = read_image(save_frames(tmp_path / "a.dcm", stored[..., :1], affine))
        np.testing.assert_array_equal(image.numpy(), stored[..., 0].T[None])
        assert picture_range(image.meta) == (0, 65535)

    def test_single_frame_enhanced_files_form_a_series(self, tmp_path, save_frames, stored, affine):
        for index in range(5):
            path = tmp_path / "series" / f"{4 - index}.dcm"
            save_frames(path, stored, affine, order=(index,), PatientName=None)
        # Each file tells its own position; the shared groups are alike.
        image = read_image(tmp_path / "series")
        np.testing.assert_array_equal(image.numpy()[0], stored)
        assert [path[-5] for path in image.meta["dicom_files"]] == ["4", "3", "2", "1", "0"]


PIXELS = {"PixelMeasuresSequence": {"PixelSpacing": [0.8, 0.5]}}


def pointer(keyword: str) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    dataset.DimensionIndexPointer = pydicom.datadict.tag_for_keyword(keyword)
    return dataset


class TestRefusals:
    @pytest.mark.parametrize(
        ("macro", "keyword", "values"),
        [
            ("FrameContentSequence", "TemporalPositionIndex", (1, 2)),
            ("FrameContentSequence", "StackID", ("1", "2")),
            ("MREchoSequence", "EffectiveEchoTime", (30.0, 80.0)),
            ("MRDiffusionSequence", "DiffusionBValue", (0.0, 1000.0)),
            ("MRDiffusionSequence", "DiffusionDirectionality", ("NONE", "DIRECTIONAL")),
            ("MRImageFrameTypeSequence", "FrameType", ("M", "P")),
        ],
    )
    def test_several_volumes_are_refused(
        self, tmp_path, save_frames, stored, affine, macro, keyword, values
    ):
        changes = {frame: {macro: {keyword: values[frame >= 5]}} for frame in range(10)}
        order = (*range(5), *range(5))
        path = save_frames(tmp_path / "a.dcm", stored, affine, order, changes)
        message = rf"10 frames at 5 position.*{keyword} \({values[0]}.* in frame 1, .* in frame 6"
        with pytest.raises(InputError, match=message) as caught:
            read_image(path)
        assert "Doe" not in str(caught.value)

    def test_the_dimension_index_tells_what_differs(self, tmp_path, save_frames, stored, affine):
        changes = {
            frame: {"FrameContentSequence": {"DimensionIndexValues": [frame % 5 + 1, frame // 5]}}
            for frame in range(10)
        }
        dimensions = [pointer("InStackPositionNumber"), pointer("FlipAngle")]
        order = (*range(5), *range(5))
        path = save_frames(
            tmp_path / "a.dcm",
            stored,
            affine,
            order,
            changes,
            DimensionIndexSequence=dimensions,
        )
        with pytest.raises(InputError, match=r"differ in FlipAngle \(0 in frame 1, 1 in frame 6"):
            read_image(path)

    def test_stacks_at_different_positions_are_refused(self, tmp_path, save_frames, stored, affine):
        changes = {
            frame: {"FrameContentSequence": {"StackID": str(frame // 3)}} for frame in range(5)
        }
        with pytest.raises(InputError, match="differ in StackID .*several stacks"):
            read_image(save_frames(tmp_path / "a.dcm", stored, affine, changes=changes))

    def test_a_tilted_gantry_is_refused(self, tmp_path, save_frames, stored, affine):
        shared = {"CTAcquisitionDetailsSequence": {"GantryDetectorTilt": -12.0}}
        own = {"PlaneOrientationSequence": {"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]}}
        orientations = dict.fromkeys(range(5), own)
        path = save_frames(
            tmp_path / "a.dcm", stored, affine, changes=orientations, shared={**shared, **PIXELS}
        )
        with pytest.raises(InputError, match="a.dcm frame 1: .*GantryDetectorTilt -12"):
            read_image(path)

    def test_gaps_and_missing_places_name_the_frames(self, tmp_path, save_frames, stored, affine):
        path = save_frames(tmp_path / "a.dcm", stored, affine, order=(0, 1, 2, 4))
        with pytest.raises(InputError, match="between a.dcm frame 3 and a.dcm frame 4"):
            read_image(path)
        changes = {1: {"PlanePositionSequence": {"ImagePositionPatient": None}}}
        place = {"ImagePositionPatient": [0, 0, 0]}  # what stands outside holds for no frame
        path = save_frames(tmp_path / "b.dcm", stored, affine, changes=changes, **place)
        with pytest.raises(InputError, match="b.dcm frame 2: .*ImagePositionPatient is missing"):
            read_image(path)

    def test_films_and_colours_are_refused(self, tmp_path, save_dicom, save_frames, stored, affine):
        film = np.ascontiguousarray(stored.T)
        path = save_dicom(tmp_path / "film.dcm", film, NumberOfFrames=5)
        with pytest.raises(InputError, match="where each of 5 frame.* lies, found none"):
            read_image(path)
        path = save_frames(tmp_path / "a.dcm", stored, affine, PixelPresentation="COLOR")
        with pytest.raises(InputError, match="found colour"):
            read_image(path)

    def test_cut_off_frames_are_refused(self, tmp_path, save_frames, stored, affine):
        path = save_frames(tmp_path / "a.dcm", stored, affine, NumberOfFrames=6)
        with pytest.raises(InputError, match="each of 6 frame.* found 5"):
            read_image(path)
        path = save_frames(tmp_path / "b.dcm", stored, affine, PixelData=stored.tobytes()[:-48])
        with pytest.raises(InputError, match="expected 240 bytes of pixels .*found 192"):
            read_image(path)

    def test_several_objects_of_one_series_are_refused(self, tmp_path, save_frames, stored, affine):
        for name in ("a.dcm", "b.dcm"):
            save_frames(tmp_path / "series" / name, stored, affine)
        with pytest.raises(InputError, match="found 2 files of one series.* holds 5 frames"):
            read_image(tmp_path / "series")
        assert read_image(tmp_path / "series" / "a.dcm").shape == (1, 4, 6, 5)
