"""One contract test over any component."""
