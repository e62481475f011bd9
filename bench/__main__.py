"""``python -m bench``, which is the command ``augmark``."""

from training import interrupts

interrupts.hold()  # imports take seconds

from bench import cli  # noqa: E402


def main() -> None:
    """Run the command line."""
    try:
        cli.main()
    finally:
        interrupts.ignore()


if __name__ == "__main__":
    main()
