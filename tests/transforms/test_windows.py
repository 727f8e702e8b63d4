import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.intensity import ScaleBody
from transforms.readers import read_case, read_image
from transforms.windows import CT_WINDOWS, window_method

HOUNSFIELD = np.array([-1000, -600, 0, 20, 40, 80, 400, 1300], np.float32).reshape(1, 2, 2, 2)


def volume(values=HOUNSFIELD, **meta) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.copy()), affine=torch.eye(4), meta=meta)


class TestNames:
    @pytest.mark.parametrize(
        ("window", "method"),
        [
            ("lung", "ct:lung"),
            (" CT:Brain ", "ct:brain"),
            ("-600.5,1500", "window:-600.5,1500"),
            ("40,80", "window:40,80"),
            ("window: 40, 80", "window:40,80"),
            ("voi", "voi"),
            ("VOI", "voi"),
        ],
    )
    def test_one_spelling(self, window, method):
        assert window_method(window) == method
        assert ScaleBody(window).method == method

    @pytest.mark.parametrize(
        "window", ["kidney", "40", "40,0", "40,-80", "1,2,3", "40;80", "40,nan", "0,inf", "lun"]
    )
    def test_others_are_refused(self, window):
        expected = f"method: expected one of auto, .*liver .*found '{window}'"
        with pytest.raises(InputError, match=expected):
            ScaleBody(window)


class TestValues:
    @pytest.mark.parametrize("name", CT_WINDOWS)
    def test_ct(self, name):
        centre, width = CT_WINDOWS[name]
        image = volume(modality="CT")
        scaled = ScaleBody(name)(image)
        lowest, highest = centre - width / 2, centre + width / 2
        expected = (np.clip(HOUNSFIELD, lowest, highest) - lowest) / width
        np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-6)
        assert (scaled.numpy()[HOUNSFIELD <= lowest] == 0).all()
        np.testing.assert_array_equal(image.numpy(), HOUNSFIELD)

    def test_any_window_makes_no_claim_about_units(self):
        scaled = ScaleBody("window:100,200")(volume(np.abs(HOUNSFIELD), modality="MR"))
        np.testing.assert_allclose(scaled.numpy(), np.clip(np.abs(HOUNSFIELD) / 200, 0, 1))

    def test_a_ct_window_needs_hounsfield_units(self):
        assert ScaleBody("brain")(volume()).max() == 1  # from NIfTI, with air below 0
        for image in (
            volume(modality="MR"),
            volume(modality="CT, PT"),
            volume(HOUNSFIELD + 1024),
            MetaTensor(torch.rand(1, 4, 4) - 0.5, meta={"bit_depth": 16}),
        ):
            with pytest.raises(InputError, match=r"expected Hounsfield units.*window:centre,width"):
                ScaleBody("brain")(image)


class TestVoi:
    def write(self, save_volume, folder, **elements):
        stored = np.arange(60, dtype=np.int16).reshape(4, 5, 3)
        affine = np.diag([-1.0, -1, 1, 1])
        return stored, read_image(save_volume(folder, stored, affine, **elements))

    def test_linear_is_the_standard_function(self, tmp_path, save_volume):
        window = {"WindowCenter": [30, 5], "WindowWidth": [21, 2]}
        stored, image = self.write(save_volume, tmp_path, **window)
        assert image.meta["voi_windows"] == ((30.0, 21.0),) * 3
        # PS3.3 C.11.2.1.2.1, for an output from 0 to 1.
        expected = ((stored - 29.5) / 20 + 0.5).clip(0, 1)
        np.testing.assert_allclose(ScaleBody("voi")(image).numpy()[0], expected, atol=1e-6)

    @pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
    def test_other_functions(self, tmp_path, save_volume, function):
        window = {"WindowCenter": 30, "WindowWidth": 20, "VOILUTFunction": function}
        stored, image = self.write(save_volume, tmp_path, **window)
        expected = ((stored - 30) / 20 + 0.5).clip(0, 1)
        if function == "SIGMOID":
            expected = 1 / (1 + np.exp(-4 * (stored - 30) / 20))
        np.testing.assert_allclose(ScaleBody("voi")(image).numpy()[0], expected, atol=1e-6)

    def test_every_slice_has_its_own(self, tmp_path, save_frames):
        stored = np.arange(60, dtype=np.int16).reshape(4, 5, 3)
        changes = {
            frame: {"FrameVOILUTSequence": {"WindowCenter": 30, "WindowWidth": 11 + 10 * frame}}
            for frame in range(3)
        }
        path = save_frames(tmp_path / "a.dcm", stored, np.diag([-1.0, -1, 1, 1]), changes=changes)
        scaled = ScaleBody("voi")(read_image(path)).numpy()[0]
        for k in range(3):
            expected = ((stored[..., k] - 29.5) / (10 + 10 * k) + 0.5).clip(0, 1)
            np.testing.assert_allclose(scaled[..., k], expected, atol=1e-6)

    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
    def test_monochrome1_shows_the_negative(self, tmp_path, save_dicom, function):
        stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
        elements = {
            "WindowCenter": 100,
            "WindowWidth": 51,
            "RescaleIntercept": -20,
            "VOILUTFunction": function,
        }
        positive = read_image(save_dicom(tmp_path / "p.dcm", stored, **elements))
        path = tmp_path / "n.dcm"
        elements["PhotometricInterpretation"] = "MONOCHROME1"
        negative = read_image(save_dicom(path, stored, **elements))
        scale = ScaleBody("voi")
        np.testing.assert_allclose(scale(negative).numpy(), 1 - scale(positive).numpy(), atol=1e-6)

    @pytest.mark.parametrize("width", [None, "", 0])
    def test_no_window_is_refused(self, tmp_path, save_volume, width):
        _, image = self.write(save_volume, tmp_path, WindowCenter=30, WindowWidth=width)
        with pytest.raises(InputError, match="whose header gives a window"):
            ScaleBody("voi")(image)

    def test_several_files_share_no_window(self, tmp_path, save_volume):
        for name in "ab":
            window = {
                "WindowCenter": 30,
                "WindowWidth": 20,
                "Modality": "CT" if name == "a" else "PT",
            }
            self.write(save_volume, tmp_path / name, **window)
        case = read_case([tmp_path / "a", tmp_path / "b"])
        assert case.meta["modality"] == "CT, PT" and "voi_windows" not in case.meta


@pytest.mark.skipif("AEFLOW_DATA_DIR" not in os.environ, reason="no AEFLOW_DATA_DIR")
class TestRealFiles:
    def test_ct_windows(self):
        folder = Path(os.environ["AEFLOW_DATA_DIR"], "dicom", "ct_3slice_with_seg", "ct-3slice")
        image = read_image(folder)
        values = image.numpy()
        for name, (centre, width) in CT_WINDOWS.items():
            scaled = ScaleBody(name)(image).numpy()
            expected = np.clip((values - centre) / width + 0.5, 0, 1)
            np.testing.assert_allclose(scaled, expected, atol=1e-5)
            assert np.ptp(scaled) == 1
        assert 0 < ScaleBody("voi")(image).mean() < 1

    @pytest.mark.parametrize("name", ["Brats18_TCIA10_637_1", "Brats18_TCIA10_639_1"])
    @pytest.mark.parametrize("method", ["zscore", "percentile"])
    def test_mr_with_extreme_values(self, name, method):
        path = Path(os.environ["AEFLOW_DATA_DIR"], "brats", name, f"{name}_flair.nii.gz")
        image = read_image(path)[..., 60:100]
        scaled = ScaleBody(method)(image)
        inside = scaled[image > 0]
        assert 0.15 < float(inside.median()) < 0.85
        assert float(inside.std()) > 0.03
        assert float(scaled[image == 0].abs().max()) == 0
        with pytest.raises(InputError, match="Hounsfield"):
            ScaleBody("brain")(image)
