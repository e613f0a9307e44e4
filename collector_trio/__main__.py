"""`python -m collector_trio`."""

from collector_trio.commands import main

if __name__ == "__main__":
    main()
