"""Made-up files as the data sets of the paper are distributed, with the defects that they have."""

import nibabel
import numpy as np
import tifffile
from PIL import Image

# Organs as boxes: where they lie towards the left, the back and up, from 0 to 1.
BODY = {
    "liver": ((0.1, 0.45), (0.2, 0.7), (0.6, 0.95)),
    "spleen": ((0.75, 0.9), (0.55, 0.85), (0.6, 0.85)),
    "stomach": ((0.55, 0.75), (0.15, 0.45), (0.55, 0.9)),
    "right_kidney": ((0.15, 0.35), (0.75, 0.95), (0.25, 0.5)),
    "left_kidney": ((0.7, 0.9), (0.75, 0.95), (0.25, 0.5)),
    "aorta": ((0.5, 0.6), (0.7, 0.8), (0.1, 0.95)),
    "pancreas": ((0.46, 0.68), (0.5, 0.6), (0.4, 0.55)),
    "gallbladder": ((0.3, 0.4), (0.1, 0.2), (0.4, 0.5)),
}
OURS = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
# The numbers that each distribution gives to OURS, stated here once more: what is tested must not be the test.
NUMBERS = {
    "TransUNet": (1, 2, 3, 4, 5, 6, 7, 8),
    "BTCV": (8, 4, 3, 2, 6, 11, 1, 7),
    "EMCAD": (8, 4, 3, 2, 6, 5, 1, 7),
    "SAMed": (7, 4, 3, 2, 5, 8, 1, 6),
}
SIDE = 20  # pixels of a slice


def body(n_slices, numbers=NUMBERS["TransUNet"], without=()):
    """Labels with axes that run left, posterior and up."""
    labels = np.zeros((SIDE, SIDE, n_slices), np.uint8)
    for organ, number in zip(OURS, numbers):
        box = BODY[organ]
        where = tuple(slice(round(a * n), round(b * n)) for (a, b), n in zip(box, labels.shape))
        if organ not in without:
            labels[where] = number
    if max(numbers) > 8:  # BTCV's other organs
        for i, number in enumerate((5, 9, 10, 12, 13)):
            labels[9, 8 + i, 2:4] = number
    return labels


def scan(labels):
    """Values from 0 to 1 in 256 steps that tell every voxel's place, for labels of that shape."""
    return (np.arange(labels.size).reshape(labels.shape) % 256 / 255).astype(np.float32)


def on_its_side(array):
    """As TransUNet stores a volume: slices first, rows to the left, columns to the back."""
    return array.transpose(2, 0, 1)


def to_the_front(array):
    """As EMCAD stores it: columns to the front."""
    return on_its_side(array)[:, :, ::-1]


def write_slices(folder, case, image, label):
    folder.mkdir(parents=True, exist_ok=True)
    for i, (one, labels) in enumerate(zip(image, label)):
        np.savez(folder / f"case{case:04d}_slice{i:03d}.npz", image=one, label=labels.astype(np.float32))


def write_h5(folder, case, image, label):
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"case{case:04d}.npy.h5", "w") as file:
        file["image"], file["label"] = image, label.astype(np.float32)


def write_nifti(folder, case, image, label, codes="LAS"):
    """As BTCV, whose arrays run left, anterior and up; of arrays that run left, posterior and up."""
    for kind, array in (("img", image), ("label", label)):
        nifti = nibabel.Nifti1Image(array, np.diag([-0.8, -0.8, 3.0, 1.0]))
        wanted = nibabel.orientations.axcodes2ornt(codes)
        turned = nibabel.orientations.ornt_transform(nibabel.io_orientation(nifti.affine), wanted)
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.save(nifti.as_reoriented(turned), folder / kind / f"{kind}{case:04d}.nii.gz")


def frame(size, seed):
    """A picture (rows, columns, 3) for (width, height)."""
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width]


def blob(size, value=255):
    """A mask with an object of 30 x 40 pixels."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[10:40, 20:60] = value
    return mask


def write_picture(path, array, **tags):
    """By the ending; a TIFF is compressed with PackBits, as ColonDB's are, unless its tags say otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array, **tags)
    else:
        Image.fromarray(array).save(path)


def write_colondb(folder, numbers, same=()):
    """Flat, .tif and .tiff mixed, with contours; frames of ``same`` look like the first of them."""
    size = (574, 500)
    for number in numbers:
        ending = "tif" if 77 <= number <= 97 else "tiff"
        seed = same[0] if number in same else number
        write_picture(folder / f"{number}.{ending}", frame(size, seed), compression="packbits", photometric="rgb")
        for mask in ("p", "cp"):
            write_picture(folder / f"{mask}{number}.tiff", blob(size), compression="packbits")


def write_clinicdb(folder, numbers):
    """Colours tagged as grey, and the grey border of the camera in the masks."""
    size = (384, 288)
    for number in numbers:
        tags = {"photometric": "minisblack", "planarconfig": "contig"}
        write_picture(folder / "Original" / f"{number}.tif", frame(size, number), **tags)
        mask = blob(size)
        mask[:, :5] = 11
        mask[39, 59] = 128
        write_picture(folder / "Ground Truth" / f"{number}.tif", mask)


def write_isic(folder, part, numbers, size=(60, 80)):
    """A part with superpixels among its pictures and a table."""
    data, truth = folder / f"ISIC-2017_{part}_Data", folder / f"ISIC-2017_{part}_Part1_GroundTruth"
    for number in numbers:
        name = f"ISIC_{number:07d}"
        write_picture(data / f"{name}.jpg", frame(size, number))
        write_picture(data / f"{name}_superpixels.png", frame(size, number + 1))
        write_picture(truth / f"{name}_segmentation.png", blob(size))
    (data / f"ISIC-2017_{part}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n")
