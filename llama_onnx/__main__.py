"""`python -m llama_onnx …`: the command line."""

import sys

if __name__ == "__main__":
    try:
        from .cli import main
    except KeyboardInterrupt:  # importing takes long enough for one
        sys.exit(130)
    sys.exit(main())
