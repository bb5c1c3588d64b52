"""`python -m ssd_bench.cli` is the command `ssd-bench`."""

from ssd_bench.cli.run import main

main()
