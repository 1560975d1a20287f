"""Pure: the bytes of an image file to right RGB pixels and back, checked before every decoder."""
