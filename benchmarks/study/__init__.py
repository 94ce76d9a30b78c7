"""Studies: trainers against each other on a data set, by nnU-Net's own commands. See README.md."""
