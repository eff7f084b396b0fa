"""`python -m reluctant`: the same as the command `reluctant`."""

from reluctant.cli import main

if __name__ == "__main__":
    main()
