"""`python -m llama_onnx …`: the command line."""

import sys

from .commands.generate import main

if __name__ == "__main__":
    sys.exit(main())
