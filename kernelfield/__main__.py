"""`python -m kernelfield` is the command line."""

from kernelfield.cli import app

if __name__ == "__main__":
    app(prog_name="kernelfield")
