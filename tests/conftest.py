import os
import sys
from pathlib import Path

# Tests run beside each other and beside nnU-Net's processes: threads that wait must not spin. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))  # tests/networks.py
