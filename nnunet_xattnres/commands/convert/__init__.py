"""The data sets of the paper, as they are distributed, in nnU-Net's raw format: `nnunet-xattnres convert`."""

from nnunet_xattnres.commands.convert.clinicdb import CLINICDB
from nnunet_xattnres.commands.convert.colondb import COLONDB
from nnunet_xattnres.commands.convert.conversion import Outcome, convert
from nnunet_xattnres.commands.convert.data_set import DataSet
from nnunet_xattnres.commands.convert.isic2017 import ISIC2017
from nnunet_xattnres.commands.convert.synapse import SYNAPSE

__all__ = ["DATA_SETS", "DataSet", "Outcome", "convert"]

DATA_SETS = {"synapse": SYNAPSE, "colondb": COLONDB, "clinicdb": CLINICDB, "isic2017": ISIC2017}
