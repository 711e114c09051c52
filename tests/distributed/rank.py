"""pytest on one rank of a job: ``python tests/distributed/rank.py arguments...``. Unlike ``python -m pytest`` it leaves the current folder off the
path, where the sources of an installed library may lie."""

import sys

import pytest

if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    sys.exit(pytest.main(sys.argv[1:]))
