"""Real data for training: sources of samples, how they are worded, and in which order they come."""
