"""CVC-ClinicDB (CVC-612): 612 frames in two folders, as TIFF, and also as PNG."""

from nnunet_xattnres.commands.convert.data_set import DataSet
from nnunet_xattnres.commands.convert.frames import Frames
from nnunet_xattnres.commands.convert.pictures import CHANNEL_NAMES

FRAMES = Frames(
    prefix="clinicdb",
    image=r"(?:original|images?)/0*(\d+)\.(?:tiff?|png)",
    mask=r"(?:ground[ _-]?truth|masks?)/0*(\d+)\.(?:tiff?|png)",
    size=(384, 288),
    sequences=(
        "1-25 26-50 51-67 68-78 79-103 104-126 127-151 152-177 178-199 200-205 206-227 228-252 253-277 "
        "278-297 298-317 318-342 343-363 364-383 384-408 409-428 429-447 448-466 467-478 479-503 504-528 "
        "529-546 547-571 572-591 592-612"
    ),
    left_out={},
)

CLINICDB = DataSet(
    title="CVC-ClinicDB",
    number=952,
    folder="CVCClinicDB",
    channels=CHANNEL_NAMES,
    labels=("polyp",),
    file_ending=".png",
    terms="Research and education only; commercial use is forbidden.",
    cite="Bernal et al., Computerized Medical Imaging and Graphics 43, 2015",
    parts={"training": 612},
    splits=("sequence", "random"),
    expected="the folders Original and Ground Truth, or images and masks, with N.tif or N.png, N from 1 to 612",
    find=FRAMES.find,
)
