"""Compiled passes for CPUs, the threads they run in, and the memory that is kept between steps."""
