"""python -m vidm.cli, as torchrun starts it."""

from vidm.cli import main

if __name__ == "__main__":
    main()
