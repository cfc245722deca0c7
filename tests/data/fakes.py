"""Tiny fakes of published datasets, in the layout of the originals."""

import numpy as np
from PIL import Image

from advjax.data.builders import chestxray14, ead2019


def picture(path, seed=0, size=(10, 12), grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if grey else (*size, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


def mask(path, size=(10, 12)):
    """White above, black below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[: size[0] // 2] = 255
    Image.fromarray(pixels).save(path)


def text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def aptos2019(root):
    for k in range(25):
        picture(root / "train_images" / f"a{k:02}.png", k)
    text(root / "train.csv", ["id_code,diagnosis", *(f"a{k:02},{k % 5}" for k in range(25))])


def messidor(root):
    for base in (11, 12):
        names = [f"2005_{base}_{k:02}_PP" for k in range(20)]
        for k, name in enumerate(names):
            picture(root / f"Base{base}" / f"{name}.tif", k)
        head = "Image name,Ophthalmologic department,Retinopathy grade,Risk of macular edema"
        rows = [f"{name}.tif,Service,{k % 4},0" for k, name in enumerate(names)]
        text(root / f"Base{base}" / f"Annotation_Base{base}.csv", [head, *rows])


def isic2016(root):
    for which, n in (("Training", 16), ("Test", 4)):
        rows = []
        for k in range(n):
            name = f"ISIC_{which[:2]}{k:03}"
            picture(root / f"ISBI2016_ISIC_Part3_{which}_Data" / f"{name}.jpg", k)
            mask(root / f"ISBI2016_ISIC_Part1_{which}_GroundTruth" / f"{name}_Segmentation.png")
            words = ("benign", "malignant") if which == "Training" else ("0.0", "1.0")
            rows.append(f"{name},{words[k % 2]}")
        text(root / f"ISBI2016_ISIC_Part3_{which}_GroundTruth.csv", rows)


def isic2017(root):
    for which, n in (("Training", 6), ("Validation", 3), ("Test_v2", 4)):
        rows = ["image_id,melanoma,seborrheic_keratosis"]
        for k in range(n):
            name = f"ISIC_{which[:2]}{k:03}"
            picture(root / f"ISIC-2017_{which}_Data" / f"{name}.jpg", k)
            # the published folders hold these too
            picture(root / f"ISIC-2017_{which}_Data" / f"{name}_superpixels.png", k)
            mask(root / f"ISIC-2017_{which}_Part1_GroundTruth" / f"{name}_segmentation.png")
            rows.append(f"{name},{float(k % 3 == 1)},{float(k % 3 == 2)}")
        text(root / f"ISIC-2017_{which}_Part3_GroundTruth.csv", rows)


def ham10000(root):
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    classes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    for k in range(70):
        name = f"ISIC_{k:07}"
        picture(root / f"HAM10000_images_part_{1 + k % 2}" / f"{name}.jpg", k)
        mask(root / "HAM10000_segmentations_lesion_tschandl" / f"{name}_segmentation.png")
        # two images of every lesion
        rows.append(f"HAM_{k // 2:07},{name},{classes[k // 2 % 7]},histo,50.0,male,back")
    text(root / "HAM10000_metadata.csv", rows)


def chestxray(root):
    rows = ['"Image Index","Finding Labels","Follow-up #","Patient ID"']
    names = []
    for k in range(30):
        name = f"{k // 2 + 1:08}_{k % 2:03}.png"
        picture(root / f"images_00{1 + k % 2}" / "images" / name, k, grey=True)
        found = chestxray14.FINDINGS[k % 14]
        words = ("No Finding", found, f"{found}|Hernia")[k % 3] if found != "Hernia" else found
        rows.append(f"{name},{words},{k % 2},{k // 2 + 1}")
        names.append(name)
    text(root / "Data_Entry_2017.csv", rows)
    text(root / "train_val_list.txt", names[:20])
    text(root / "test_list.txt", names[20:])


def covid_ct(root):
    for name in ("COVID", "NonCOVID"):
        for split, n in (("train", 4), ("val", 2), ("test", 3)):
            files = [f"{split} {k}%2020.png" for k in range(n)]
            for k, file in enumerate(files):
                picture(root / "Images-processed" / f"CT_{name}" / file, k)
            text(root / "Data-split" / name / f"{split}CT_{name}.txt", files)


def covid19_radiography(root):
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        base = root / "COVID-19_Radiography_Dataset" / name
        for k in range(10):
            picture(base / "images" / f"{name}-{k}.png", k, grey=True)
            # masks are smaller than the images, and have three equal channels
            mask(base / "masks" / f"{name}-{k}.png", size=(8, 10))


def ead2019_(root):
    base = root / "trainingData_detection"
    for k in range(20):
        picture(base / f"{k:05}.jpg", k, size=(10, 20))
        # half in shares of the image, half in pixels: both are the same box
        share, pixels = f"{k % 7} 0.5 0.5 0.5 0.4", f"{k % 7} 5 3 15 7"
        text(base / f"{k:05}.txt", [share if k % 2 else pixels, "3 0.25 0.5 0.5 1.0"][: 1 + k % 2])
    text(base / "class_list.txt", ead2019.KINDS)


def kvasir_seg(root):
    for k in range(20):
        picture(root / "Kvasir-SEG" / "images" / f"cju{k:02}.jpg", k)
        mask(root / "Kvasir-SEG" / "masks" / f"cju{k:02}.jpg")


def medmnist(root, flag="pneumoniamnist", classes=2):
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 8), ("val", 3), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = np.arange(n, dtype=np.uint8)[:, None] % classes
        hot = rng.integers(0, 2, (n, 14), np.uint8)
        arrays[f"{split}_labels"] = hot if flag == "chestmnist" else labels
    np.savez(root / f"{flag}.npz", **arrays)


MAKERS = {
    "aptos2019": aptos2019,
    "chestxray14": chestxray,
    "covid19_radiography": covid19_radiography,
    "covid_ct": covid_ct,
    "ead2019": ead2019_,
    "ham10000": ham10000,
    "isic2016": isic2016,
    "isic2017": isic2017,
    "kvasir_seg": kvasir_seg,
    "messidor": messidor,
    "pneumoniamnist": medmnist,
    "chestmnist": lambda root: medmnist(root, "chestmnist"),
}
