"""What every path of the reads computes and takes on one GPU, within minutes; nnU-Net need not be installed."""
