"""Tables from files, encoded as numbers."""
