"""What an evaluation found, as a page and as plots."""
