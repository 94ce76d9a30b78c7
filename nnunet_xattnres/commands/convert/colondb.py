"""CVC-ColonDB: 380 frames, flat in one folder; also as PraNet distributes it."""

from nnunet_xattnres.commands.convert.data_set import DataSet
from nnunet_xattnres.commands.convert.frames import Frames
from nnunet_xattnres.commands.convert.pictures import CHANNEL_NAMES

FRAMES = Frames(
    prefix="colondb",
    image=r".*/0*(\d+)\.(?:tiff?|png)",
    mask=r"(?:.*/p|masks?/)0*(\d+)\.(?:tiff?|png)",  # cpN is the contour of pN
    size=(574, 500),
    sequences=(
        "1-38 39-60 61-76 77-97 98-148 149-155 156-203 204-208 209-263 264-273 274-300 301-320 321-340 341-360 361-380"
    ),
    left_out={380: "damaged: every colour is 0 or 255"},
)

COLONDB = DataSet(
    title="CVC-ColonDB",
    number=951,
    folder="CVCColonDB",
    channels=CHANNEL_NAMES,
    labels=("polyp",),
    file_ending=".png",
    terms="No terms are stated but the wish to be cited.",
    cite="Bernal, Sanchez, Vilarino, Pattern Recognition 45(9), 2012",
    parts={"training": 379},
    splits=("sequence", "random"),
    expected="N.tiff or N.tif and the mask pN.tiff, N from 1 to 380; or images/N.png and masks/N.png",
    find=FRAMES.find,
)
