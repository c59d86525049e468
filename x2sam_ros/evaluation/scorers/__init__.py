"""What is counted on a sequence: one scorer for each kind of question."""
