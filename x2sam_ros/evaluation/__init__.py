"""Scores against ground truth. Draws no scenes and knows no ROS."""
