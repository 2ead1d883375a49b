"""Problems to test an optimiser on, by name."""
