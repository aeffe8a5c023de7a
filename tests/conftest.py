"""One thread a process: the tests' models are small, and pytest-xdist runs processes side by side."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
