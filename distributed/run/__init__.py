"""Supervises training over MPI: ``python -m tensorlib.distributed.run -n 4 train.py``."""
