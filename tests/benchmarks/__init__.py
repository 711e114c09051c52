"""Side-by-side benchmarks: `python -m tests.benchmarks --help`. One file per family of workloads, `harness` runs them."""
