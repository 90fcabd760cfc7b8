"""`python -m adasap`."""

from adasap.cli import main

if __name__ == "__main__":
    main()
