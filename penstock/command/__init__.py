"""What the command line does; `penstock.cli` reads the arguments and calls it."""
