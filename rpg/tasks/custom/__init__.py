"""Networks of your own."""
