"""The vocabulary every layer speaks: posteriors, mixing laws, contracts, numerical policy."""
