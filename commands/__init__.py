"""Commands of the command line: each parses its options, calls the library once and prints the result."""
