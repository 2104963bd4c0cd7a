"""``python -m lamae`` is the same as ``lamae``; launchers that want a module use it."""

from lamae.cli.app import main

if __name__ == "__main__":
    main()
