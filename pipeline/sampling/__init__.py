"""Pure: which samples make a batch, as a function of the seed and the step number alone."""
