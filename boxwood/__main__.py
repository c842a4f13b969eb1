"""``python -m boxwood``, also as ``torchrun -m boxwood``."""

from boxwood.cli import main

if __name__ == "__main__":
    main()
