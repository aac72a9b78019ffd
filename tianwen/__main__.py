"""`python -m tianwen` is the command `tianwen`."""

from tianwen.cli import main

if __name__ == "__main__":
    main()
