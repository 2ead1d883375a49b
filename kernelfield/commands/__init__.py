"""What the command line does, a file a subject; `kernelfield.cli` is the door."""
