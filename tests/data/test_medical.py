"""DICOM and NIfTI; the arithmetic is tested without their libraries."""

import numpy as np
import pytest

from advjax import data
from advjax.config import DataConfig


def test_window_level_by_hand():
    stored = np.array([0, 424, 1424, 424 + 750])
    # Hounsfield units -1024, -600, 400, 150 in the lung window -1350 to 150
    grey = data.window_level(stored, centre=-600, width=1500, intercept=-1024)
    np.testing.assert_allclose(grey, [326 / 1500, 0.5, 1.0, 1.0], atol=1e-7)
    assert grey.dtype == np.float32
    turned = data.window_level(stored, centre=-600, width=1500, intercept=-1024, invert=True)
    np.testing.assert_allclose(turned, 1 - grey, atol=1e-7)
    # slope first, then intercept; below the window is 0
    twice = data.window_level(np.array([1, 3, 5]), centre=5, width=4, slope=2.0, intercept=-1.0)
    np.testing.assert_allclose(twice, [0.0, 0.5, 1.0], atol=1e-7)
    for width in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="width of a window must be above 0"):
            data.window_level(stored, centre=0, width=width)


def test_a_bad_window():
    with pytest.raises(ValueError, match=r"data\.window must be a centre and a width above 0"):
        data.load(DataConfig(window=(40.0, 0.0)))
    with pytest.raises(ValueError, match=r"data\.window must be a centre and a width"):
        data.load(DataConfig(window=(40.0,)))


def write_dicom(pydicom, path, stored, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    made = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.Rows, made.Columns = stored.shape
    made.SamplesPerPixel, made.BitsAllocated, made.BitsStored, made.HighBit = 1, 16, 12, 11
    made.PixelRepresentation, made.PhotometricInterpretation = 0, "MONOCHROME2"
    for name, value in tags.items():
        setattr(made, name, value)
    made.PixelData = stored.astype(np.uint16).tobytes()
    made.save_as(path, enforce_file_format=True)


def dicom_folder(pydicom, root, **tags):
    stored = np.arange(64).reshape(8, 8) * 64
    for split, n in (("train", 3), ("val", 1), ("test", 1)):
        for name in ("a", "b"):
            for k in range(n):
                write_dicom(pydicom, root / split / name / f"{k}.dcm", stored, **tags)
    return stored


def first(root, **kwargs):
    return data.load(DataConfig(source=f"folder:{root}", **kwargs)).test.images[0, ..., 0]


def test_dicom_through_windows(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs advjax[medical]")

    def expected(**kwargs):
        return np.round(data.window_level(stored, **kwargs) * 255).astype(np.uint8)

    stored = dicom_folder(pydicom, tmp_path / "plain")
    bits = first(tmp_path / "plain")
    np.testing.assert_array_equal(bits, expected(centre=4095 / 2, width=4095))
    given = first(tmp_path / "plain", window=(1000.0, 500.0))
    np.testing.assert_array_equal(given, expected(centre=1000, width=500))
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    dicom_folder(pydicom, tmp_path / "ct", **tags, WindowCenter=[40, 50], WindowWidth=[400, 300])
    scaled = {"slope": 2.0, "intercept": -1024.0}
    own = first(tmp_path / "ct")
    np.testing.assert_array_equal(own, expected(centre=40, width=400, **scaled))
    dicom_folder(pydicom, tmp_path / "x", PhotometricInterpretation="MONOCHROME1")
    inverted = first(tmp_path / "x")
    np.testing.assert_array_equal(inverted, expected(centre=4095 / 2, width=4095, invert=True))
    (tmp_path / "x" / "test" / "a" / "0.dcm").write_bytes(b"no dicom")
    with pytest.raises(ValueError, match=r"test/a/0.dcm: cannot be read as a DICOM image"):
        first(tmp_path / "x")


def test_slices_of_nifti_volumes_and_their_masks(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs advjax[medical]")
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "ct" / kind).mkdir(parents=True)
    volumes = {}
    for k in range(10):
        volume = rng.integers(-1000, 400, (6, 6, 3)).astype(np.int16)
        mask = (volume > 0).astype(np.uint8)
        # stored from left to right and from front to back, as scanners have it
        turn = np.diag([-1.0, -1.0, 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(volume, turn), tmp_path / f"ct/images/v{k}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, turn), tmp_path / f"ct/masks/v{k}.nii.gz")
        volumes[f"images/v{k}.nii.gz"] = volume
    found = data.load(DataConfig(source=f"folder:{tmp_path}/ct", window=(-300.0, 1400.0)))
    assert found.task == "segmentation"
    assert sum(len(split) for split in found.splits.values()) == 30
    for split in found.splits.values():
        for name, group, image, target in zip(
            split.names, split.groups, split.images, split.targets, strict=True
        ):
            # x grows to the left in this file, so that column 0 is the patient's right
            plane = volumes[group][:, :, int(name.rpartition("#")[2])].T
            grey = data.window_level(plane, centre=-300, width=1400)
            np.testing.assert_array_equal(image[..., 0], np.round(grey * 255).astype(np.uint8))
            np.testing.assert_array_equal(target, plane > 0)
    of = [set(split.groups) for split in found.splits.values()]
    assert sum(map(len, of)) == 10


def test_dicom_files_of_a_patient_stay_together(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="needs advjax[medical]")
    stored = np.arange(64).reshape(8, 8) * 64
    for k in range(40):
        file = tmp_path / "ct" / f"c{k % 2}" / f"{k}.dcm"
        write_dicom(pydicom, file, stored + k, PatientID=f"P{k // 4}")
    found = data.load(DataConfig(source=f"folder:{tmp_path}/ct"))
    of = [set(split.groups) for split in found.splits.values()]
    assert sum(map(len, of)) == len(set.union(*of)) == 10
    assert any("by group" in note for note in found.notes)
    # one word for all of them is nobody's name
    for k in range(40):
        file = tmp_path / "anonymous" / f"c{k % 2}" / f"{k}.dcm"
        write_dicom(pydicom, file, stored + k, PatientID="ANONYMOUS" if k % 3 else "")
    found = data.load(DataConfig(source=f"folder:{tmp_path}/anonymous"))
    assert found.train.groups is None
    # a patient on both sides of folders that are divided is said
    for split, number in (("train", 8), ("val", 4), ("test", 4)):
        for k in range(number):
            file = tmp_path / "divided" / split / f"c{k % 2}" / f"{k}.dcm"
            write_dicom(pydicom, file, stored + k, PatientID=f"{split}{k}" if k else "same")
    with pytest.warns(UserWarning, match=r"1 group\(s\) are in both train and test \(same\)"):
        data.load(DataConfig(source=f"folder:{tmp_path}/divided"))
