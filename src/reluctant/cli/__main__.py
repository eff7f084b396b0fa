"""`python -m reluctant.cli`, for where no script is installed."""

from reluctant.cli import main

main()
