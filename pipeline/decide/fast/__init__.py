"""Code for speed only; docs/explanation/fast-paths.md has the plain form of each piece."""
