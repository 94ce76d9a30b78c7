"""Re-exports only: nnU-Net imports every file of this folder under its bare name and then forgets it."""

from benchmarks.study.scheduled import *  # noqa: F403
