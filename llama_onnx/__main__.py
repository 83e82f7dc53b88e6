"""`python -m llama_onnx …`: the command line."""

import sys

from .commands.command_line import main

if __name__ == "__main__":
    sys.exit(main())
