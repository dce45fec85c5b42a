"""Other libraries that run recurrent layers; each is optional."""
