"""Models: choices that are fitted to data, and the surrogates that fitting gives."""
