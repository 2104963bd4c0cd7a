"""The command line: every verb in one place, each importing what it needs when it is called."""


def main() -> None:
    """``lamae``, as the installed command and ``python -m lamae`` start it."""
    from lamae.cli import app

    app.main()
