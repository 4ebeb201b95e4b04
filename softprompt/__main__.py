"""``python -m softprompt`` is the command ``softprompt``."""

from softprompt.cli import main

if __name__ == "__main__":
    main()
